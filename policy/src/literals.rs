//! Patterns, formats and times that are written out in a policy: the forms that every engine reads alike.
//!
//! They must be written out. A pattern that comes with a request could match what its author chose.

use regorus::Engine;
use serde_json::Value;

use crate::syntax::{list, literal, node};

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 256;
/// Most repetitions that `{n,m}` may ask for.
const MAX_REPEAT: u32 = 100;
/// Built-in functions that give text.
const GIVE_TEXT: [&str; 12] = [
    "concat",
    "replace",
    "sprintf",
    "strings.reverse",
    "substring",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
];

/// Kinds of expressions that are collections.
const COLLECTIONS: [&str; 6] = ["Array", "Set", "Object", "ArrayCompr", "SetCompr", "ObjectCompr"];

/// Whether a built-in function gives text.
pub(crate) fn gives_text(name: &str) -> bool {
    GIVE_TEXT.contains(&name)
}

/// What is wrong with the arguments of a built-in function, as far as they are written out.
pub(crate) fn fault(name: &str, arguments: &[Value]) -> Option<String> {
    let text = |at: usize| arguments.get(at).and_then(literal);
    match name {
        "sprintf" => {
            let given = arguments.get(1).and_then(node).filter(|(kind, _)| *kind == "Array");
            match (text(0), given) {
                (None, _) => Some("the format of sprintf must be written out".to_owned()),
                (_, None) => Some("the values of sprintf are a list that is written out".to_owned()),
                (Some(format), Some((_, array))) => {
                    let given = list(&array["items"]);
                    let collection =
                        given.iter().filter_map(node).any(|(kind, _)| COLLECTIONS.contains(&kind));
                    let joined = || "engines write collections differently: join it with concat".to_owned();
                    collection.then(joined).or_else(|| format_fault(&format, given.len()))
                }
            }
        }
        "regex.match" => match text(0) {
            None => Some("the pattern must be written out".to_owned()),
            Some(pattern) => regex_fault(&pattern).map(|problem| format!("pattern: {problem}")),
        },
        "glob.match" => {
            let delimiters = arguments.get(1).and_then(node).filter(|(kind, _)| *kind == "Array");
            let delimiters =
                delimiters.map(|(_, array)| list(&array["items"]).iter().map(literal).collect::<Vec<_>>());
            match (text(0), delimiters.as_deref()) {
                (Some(pattern), Some([Some(delimiter)])) if delimiter == "/" || delimiter == "." => {
                    glob_fault(&pattern, delimiter).map(|problem| format!("pattern: {problem}"))
                }
                (None, _) => Some("the pattern must be written out".to_owned()),
                _ => Some("the delimiters of glob.match are [\"/\"] or [\".\"]".to_owned()),
            }
        }
        "time.parse_rfc3339_ns" => {
            let written = text(0).is_some_and(|time| is_time(&time));
            (!written).then(|| "write the time out, as 2026-11-21T12:00:00Z".to_owned())
        }
        _ => None,
    }
}

/// `%v` and `%%` are what engines write alike: `%d` writes -5 as --5 in one, `%s` takes texts alone in the other.
fn format_fault(format: &str, given: usize) -> Option<String> {
    let mut wanted = 0;
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            continue;
        }
        match letters.next() {
            Some('v') => wanted += 1,
            Some('%') => {}
            _ => return Some("a format holds %v and %% alone".to_owned()),
        }
    }
    (wanted != given).then(|| format!("the format asks for {wanted} values and is given {given}"))
}

/// A pattern with `*` for what holds no delimiter, and `/**` at its end for everything below.
fn glob_fault(pattern: &str, delimiter: &str) -> Option<String> {
    let stem = match pattern {
        "**" => "",
        _ if delimiter == "/" => pattern.strip_suffix("/**").map_or(pattern, |stem| stem),
        _ => pattern,
    };
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/@=+ *".contains(letter);
    if pattern.len() > MAX_PATTERN {
        Some(format!("longer than {MAX_PATTERN} bytes"))
    } else if !stem.chars().all(plain) {
        Some("it holds letters, digits, -_.:/@=+, spaces and * alone".to_owned())
    } else if stem.contains("**") {
        Some("** stands at the end alone, behind /".to_owned())
    } else {
        None
    }
}

/// The part of regular expressions that RE2, Rust and the engine's build read alike: letters, `.`, classes that are
/// written out, groups, `|`, `^`, `$` and repetition. No flags, no `\d`, `\w`, `\s`, `\b`: which letters they mean differs.
fn regex_fault(pattern: &str) -> Option<String> {
    if pattern.len() > MAX_PATTERN {
        return Some(format!("longer than {MAX_PATTERN} bytes"));
    }
    let problem = Regex { letters: pattern.chars().peekable() }.alternatives(0).err();
    problem.map(str::to_owned).or_else(|| {
        // The engine takes patterns up to a size of what they compile to.
        let query = format!("regex.is_valid({})", Value::from(pattern));
        let taken = Engine::new().eval_bool_query(query, false).unwrap_or(false);
        (!taken).then(|| "too large, or no pattern".to_owned())
    })
}

struct Regex<'a> {
    letters: std::iter::Peekable<std::str::Chars<'a>>,
}

impl Regex<'_> {
    /// Up to the end of the pattern or of a group; whether something in it is counted.
    fn alternatives(&mut self, depth: usize) -> Result<bool, &'static str> {
        const PUNCTUATION: &str = r"\.+*?()|[]{}^$/-";
        let mut any_counted = false;
        loop {
            let Some(letter) = self.letters.next() else {
                return if depth == 0 { Ok(any_counted) } else { Err("a group has no end") };
            };
            let counted = match letter {
                ')' if depth > 0 => return Ok(any_counted),
                '|' | '^' | '$' => continue,
                '(' => {
                    if self.letters.next_if_eq(&'?').is_some() && self.letters.next() != Some(':') {
                        return Err("a group begins with ( or (?: alone");
                    }
                    self.alternatives(depth + 1)?
                }
                '[' => {
                    self.class()?;
                    false
                }
                '\\' => match self.letters.next() {
                    Some(letter) if PUNCTUATION.contains(letter) => false,
                    _ => return Err("a backslash stands before punctuation alone; say [0-9] for digits"),
                },
                ')' | ']' | '{' | '}' | '*' | '+' | '?' => {
                    return Err("a bracket or a repetition stands alone");
                }
                _ => false,
            };
            any_counted |= self.repetition(counted)?;
        }
    }

    /// What may stand behind one letter, class or group.
    fn repetition(&mut self, counted: bool) -> Result<bool, &'static str> {
        match self.letters.peek() {
            Some('*' | '+' | '?') => {
                self.letters.next();
            }
            Some('{') if counted => return Err("what is counted stands within what is counted"),
            Some('{') => {
                self.letters.next();
                let mut bounds = String::new();
                while let Some(letter) = self.letters.next_if(|letter| *letter != '}') {
                    bounds.push(letter);
                }
                self.letters.next();
                if !is_count(&bounds) {
                    return Err("a count is {n}, {n,} or {n,m}, at most 100");
                }
                return self.once().map(|()| true);
            }
            _ => return Ok(counted),
        }
        self.once().map(|()| counted)
    }

    fn once(&mut self) -> Result<(), &'static str> {
        match self.letters.peek() {
            Some('*' | '+' | '?' | '{') => Err("one repetition stands behind another"),
            _ => Ok(()),
        }
    }

    /// `[a-z0-9_]`, `[^/]`; what is special within is escaped.
    fn class(&mut self) -> Result<(), &'static str> {
        const WRITTEN_OUT: &str =
            "a class holds letters and ranges; [ ] ^ - & ~ stand behind a backslash in it";
        self.letters.next_if_eq(&'^');
        let mut empty = true;
        loop {
            let first = match self.letters.next() {
                Some(']') if !empty => return Ok(()),
                letter => Self::of_class(letter, &mut self.letters).ok_or(WRITTEN_OUT)?,
            };
            empty = false;
            if self.letters.next_if_eq(&'-').is_some() {
                let next = self.letters.next();
                let last = Self::of_class(next, &mut self.letters).ok_or(WRITTEN_OUT)?;
                if last < first {
                    return Err("a range ends before it begins");
                }
            }
        }
    }

    fn of_class(letter: Option<char>, rest: &mut impl Iterator<Item = char>) -> Option<char> {
        match letter? {
            '\\' => rest.next().filter(|letter| r"\[]^-./".contains(*letter)),
            '[' | ']' | '^' | '-' | '&' | '~' => None,
            letter => Some(letter),
        }
    }
}

fn is_count(bounds: &str) -> bool {
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|number| digits && *number <= MAX_REPEAT)
    };
    match bounds.split_once(',') {
        None => number(bounds).is_some(),
        Some((least, "")) => number(least).is_some(),
        Some((least, most)) => number(least).zip(number(most)).is_some_and(|(least, most)| least <= most),
    }
}

/// `2026-11-21T12:00:00Z`, with a fraction or an offset (RFC 3339 §5.6), in upper case, without leap seconds.
fn is_time(text: &str) -> bool {
    let Some((clock, rest)) = text.split_at_checked(19) else { return false };
    let shape = clock.bytes().zip("dddd-dd-ddTdd:dd:dd".bytes()).all(|(byte, wanted)| match wanted {
        b'd' => byte.is_ascii_digit(),
        _ => byte == wanted,
    });
    let rest = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let end = fraction.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(fraction.len());
            if !(1..=9).contains(&end) {
                return false;
            }
            &fraction[end..]
        }
    };
    let offset = match rest.as_bytes() {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            [h1, h2, m1, m2].iter().all(|byte| byte.is_ascii_digit())
                && &rest[1..3] < "24"
                && &rest[4..6] < "60"
        }
        _ => false,
    };
    let year = ("1970".."2200").contains(&clock.get(..4).unwrap_or_default());
    shape && offset && year && &clock[11..13] < "24" && &clock[14..16] < "60" && &clock[17..19] < "60"
}
