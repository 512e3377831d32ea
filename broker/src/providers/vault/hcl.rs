//! Reads a Vault policy as far as its paths and capabilities go. What is not understood is a fault, never skipped: Vault
//! might understand it.
//!
//! Vault takes HCL 1 and JSON (Vault, "Policies": a policy is a set of `path "…" { capabilities = […] }`).

use std::iter::Peekable;
use std::str::Chars;

use serde_json::Value;

/// What a policy says of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stanza {
    /// The path, with Vault's own wildcards.
    pub(super) path: String,
    /// `capabilities`, and what stands under the older `policy`.
    pub(super) capabilities: Vec<String>,
}

/// Every path of a policy.
pub(super) fn read(policy: &str) -> Result<Vec<Stanza>, String> {
    if policy.trim_start().starts_with('{') {
        let whole: Value = serde_json::from_str(policy).map_err(|error| error.to_string())?;
        return from_json(&whole);
    }
    let mut reader = Reader { rest: policy.chars().peekable() };
    let mut stanzas = Vec::new();
    while let Some(token) = reader.next()? {
        match token {
            Token::Word(word) if word == "path" => {
                let Some(Token::Text(path)) = reader.next()? else {
                    return Err("`path` without its text".to_owned());
                };
                reader.expect('{')?;
                stanzas.push(reader.stanza(path)?);
            }
            // The policy's own name, as older files have it.
            Token::Word(word) if word == "name" => {
                reader.expect('=')?;
                reader.value()?;
            }
            other => return Err(format!("{other:?} where a path was expected")),
        }
    }
    Ok(stanzas)
}

fn from_json(whole: &Value) -> Result<Vec<Stanza>, String> {
    let unread = || "no mapping of paths".to_owned();
    let fields = whole.as_object().ok_or_else(unread)?;
    if let Some(other) = fields.keys().find(|key| !["path", "name"].contains(&key.as_str())) {
        return Err(format!("unknown key {other:?}"));
    }
    let paths = match fields.get("path") {
        Some(Value::Array(items)) => items.iter().collect(),
        Some(one) => vec![one],
        None => Vec::new(),
    };
    let mut stanzas = Vec::new();
    for (path, said) in paths
        .into_iter()
        .map(|paths| paths.as_object().ok_or_else(unread))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .flatten()
    {
        let bodies = match said {
            Value::Array(items) => items.iter().collect(),
            one => vec![one],
        };
        for body in bodies {
            let body = body.as_object().ok_or_else(unread)?;
            let mut capabilities = Vec::new();
            for value in ["capabilities", "policy"].iter().filter_map(|key| body.get(*key)) {
                match value {
                    Value::String(one) => capabilities.push(one.clone()),
                    Value::Array(items) => {
                        for item in items {
                            capabilities.push(item.as_str().ok_or_else(unread)?.to_owned());
                        }
                    }
                    _ => return Err(unread()),
                }
            }
            stanzas.push(Stanza { path: path.clone(), capabilities });
        }
    }
    Ok(stanzas)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Mark(char),
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

/// How deep values may nest.
const DEEPEST: usize = 16;

impl Reader<'_> {
    fn next(&mut self) -> Result<Option<Token>, String> {
        loop {
            match self.rest.peek().copied() {
                None => return Ok(None),
                Some(c) if c.is_whitespace() => {
                    self.rest.next();
                }
                Some('#') => self.line(),
                Some('/') => {
                    self.rest.next();
                    match self.rest.next() {
                        Some('/') => self.line(),
                        Some('*') => self.comment()?,
                        _ => return Err("a lone `/`".to_owned()),
                    }
                }
                Some('"') => return self.text().map(Some),
                Some(c) if "{}[]=,".contains(c) => {
                    self.rest.next();
                    return Ok(Some(Token::Mark(c)));
                }
                Some(c) if c.is_ascii_alphanumeric() || "_-.+".contains(c) => {
                    let mut word = String::new();
                    while let Some(c) =
                        self.rest.next_if(|c| c.is_ascii_alphanumeric() || "_-.+".contains(*c))
                    {
                        word.push(c);
                    }
                    return Ok(Some(Token::Word(word)));
                }
                Some(other) => return Err(format!("{other:?} is not understood")),
            }
        }
    }

    fn line(&mut self) {
        while self.rest.next_if(|c| *c != '\n').is_some() {}
    }

    fn comment(&mut self) -> Result<(), String> {
        let mut before = ' ';
        for c in self.rest.by_ref() {
            if before == '*' && c == '/' {
                return Ok(());
            }
            before = c;
        }
        Err("a comment without its end".to_owned())
    }

    fn text(&mut self) -> Result<Token, String> {
        self.rest.next();
        let mut text = String::new();
        loop {
            match self.rest.next() {
                Some('"') => return Ok(Token::Text(text)),
                Some('\\') => match self.rest.next() {
                    Some(c @ ('"' | '\\')) => text.push(c),
                    _ => return Err("an escape that is not understood".to_owned()),
                },
                Some('\n') | None => return Err("a text without its end".to_owned()),
                Some(c) => text.push(c),
            }
        }
    }

    fn expect(&mut self, mark: char) -> Result<(), String> {
        match self.next()? {
            Some(Token::Mark(found)) if found == mark => Ok(()),
            other => Err(format!("{other:?} where `{mark}` was expected")),
        }
    }

    /// The body of a path, behind its brace.
    fn stanza(&mut self, path: String) -> Result<Stanza, String> {
        let mut stanza = Stanza { path, capabilities: Vec::new() };
        loop {
            let key = match self.next()? {
                Some(Token::Mark('}')) => return Ok(stanza),
                Some(Token::Mark(',')) => continue,
                Some(Token::Word(key) | Token::Text(key)) => key,
                other => return Err(format!("{other:?} in the path {:?}", stanza.path)),
            };
            let texts = self.value_of_key()?;
            if ["capabilities", "policy"].contains(&key.as_str()) {
                stanza.capabilities.extend(texts);
            }
        }
    }

    /// `= value`, or a block without the sign.
    fn value_of_key(&mut self) -> Result<Vec<String>, String> {
        match self.next()? {
            Some(Token::Mark('=')) => self.value(),
            Some(Token::Mark('{')) => self.within('}', 1).map(|()| Vec::new()),
            other => Err(format!("{other:?} where a value was expected")),
        }
    }

    /// A value; its texts, where it is a text or a plain list of them.
    fn value(&mut self) -> Result<Vec<String>, String> {
        match self.next()? {
            Some(Token::Text(text)) => Ok(vec![text]),
            Some(Token::Word(_)) => Ok(Vec::new()),
            Some(Token::Mark('{')) => self.within('}', 1).map(|()| Vec::new()),
            Some(Token::Mark('[')) => {
                let mut texts = Vec::new();
                loop {
                    match self.next()? {
                        Some(Token::Mark(']')) => return Ok(texts),
                        Some(Token::Text(text)) => texts.push(text),
                        Some(Token::Mark(',') | Token::Word(_)) => {}
                        Some(Token::Mark('[')) => self.within(']', 1)?,
                        Some(Token::Mark('{')) => self.within('}', 1)?,
                        other => return Err(format!("{other:?} in a list")),
                    }
                }
            }
            other => Err(format!("{other:?} where a value was expected")),
        }
    }

    /// Skips to the end of what was opened.
    fn within(&mut self, end: char, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("values nest deeper than {DEEPEST}"));
        }
        loop {
            match self.next()? {
                None => return Err(format!("`{end}` is missing")),
                Some(Token::Mark('{')) => self.within('}', depth + 1)?,
                Some(Token::Mark('[')) => self.within(']', depth + 1)?,
                Some(Token::Mark(mark)) if mark == end => return Ok(()),
                Some(Token::Mark('}' | ']')) => return Err(format!("`{end}` is missing")),
                Some(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stanza(path: &str, capabilities: &[&str]) -> Stanza {
        Stanza { path: path.to_owned(), capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect() }
    }

    #[test]
    fn paths_are_read_from_hcl_with_comments_blocks_and_either_spelling() {
        let policy = r##"
            # a comment with { and "
            path "secret/data/kb/*" { capabilities = ["read", "list"] } // and another
            /* path "hidden" { } */
            path "a\"b" {
                capabilities = ["update",]
                allowed_parameters = { "ttl" = ["1h", "2h"], "*" = [] }
                required_parameters = ["x"]
                control_group { factor "one" { identity { approvals = 1 } } }
                min_wrapping_ttl = "1s"
            }
            path "old" { policy = "write" }
            path "none" {}
        "##;
        let expected = [
            stanza("secret/data/kb/*", &["read", "list"]),
            stanza("a\"b", &["update"]),
            stanza("old", &["write"]),
            stanza("none", &[]),
        ];
        assert_eq!(read(policy), Ok(expected.to_vec()));
        assert_eq!(read(""), Ok(Vec::new()));
    }

    #[test]
    fn paths_are_read_from_json() {
        let policy = r#"{"path": {"a/*": {"capabilities": ["read"]}, "b": [{"policy": "write"}]}}"#;
        assert_eq!(read(policy), Ok(vec![stanza("a/*", &["read"]), stanza("b", &["write"])]));
        let listed = r#"{"path": [{"a": {"capabilities": ["read"]}}]}"#;
        assert_eq!(read(listed), Ok(vec![stanza("a", &["read"])]));
    }

    #[test]
    fn what_is_not_understood_is_never_skipped() {
        for policy in [
            "path",
            "path a {}",
            "path \"a\"",
            "path \"a\" { capabilities = [\"read\" }",
            "path \"a\" { capabilities = <<EOF\nEOF\n}",
            "path \"a\" { capabilities = [\"re\\u0061d\"] }",
            "path \"a {}",
            "path { \"a\" {} }",
            "paths \"a\" {}",
            "/* path \"a\" {}",
            "path \"a\" {} }",
            "{\"path\": [1]}",
            "{\"paths\": {}}",
            "{\"path\": {\"a\": {\"capabilities\": [1]}}}",
            "{",
        ] {
            assert!(read(policy).is_err(), "{policy}");
        }
        let deep = format!("path \"a\" {{ x = {}1 }}", "[".repeat(100));
        assert!(read(&deep).is_err());
    }
}
