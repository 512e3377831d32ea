//! The shape of a source, before the engine reads it: how deeply brackets nest and how long operators chain.
//!
//! The engine's parser reads what stands in brackets twice, as a comprehension and as a list, and so takes twice as long for
//! each pair around it; its syntax tree is as deep as a chain of operators is long, and costs the square of that. Both are
//! bounded here, where a scan is enough. The scan may take two statements for one, never one for two.

/// Most brackets around one place.
pub(crate) const MAX_BRACKETS: usize = 8;
/// Most operators, references and calls of one expression within one pair of brackets.
pub(crate) const MAX_CHAIN: usize = 48;
/// Words that an expression goes on with, before or after them.
const JOINING: [&str; 9] = ["in", "not", "with", "as", "else", "if", "some", "every", "contains"];

/// What was read last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    /// An expression may end here.
    Term,
    /// An expression goes on.
    Joint,
}

/// Line, column and what is wrong there, if something is.
pub(crate) fn fault(text: &str) -> Option<((u32, u32), String)> {
    let mut open = vec![0_usize];
    let mut last = Last::Term;
    let mut new_line = false;
    for (place, token) in Tokens::new(text) {
        let chain = open.last_mut()?;
        match token {
            Token::NewLine => {
                new_line = true;
                continue;
            }
            Token::Word(word) => {
                let joint = JOINING.contains(&word);
                if new_line && last == Last::Term && !joint {
                    *chain = 0;
                }
                *chain += usize::from(joint);
                last = if joint { Last::Joint } else { Last::Term };
            }
            Token::Separator => {
                *chain = 0;
                last = Last::Joint;
            }
            Token::Operator => {
                *chain += 1;
                last = Last::Joint;
            }
            Token::Open => {
                *chain += 1;
                open.push(0);
                last = Last::Joint;
            }
            Token::Close => {
                if open.len() > 1 {
                    open.pop();
                }
                last = Last::Term;
            }
        }
        new_line = false;
        if open.len() > MAX_BRACKETS + 1 {
            return Some((place, format!("brackets stand in more than {MAX_BRACKETS} others")));
        }
        if open.last().is_some_and(|chain| *chain > MAX_CHAIN) {
            let problem =
                format!("an expression chains more than {MAX_CHAIN} operators, references or calls");
            return Some((place, problem));
        }
    }
    None
}

enum Token<'a> {
    /// A name, a keyword, a number, a text.
    Word(&'a str),
    Operator,
    Separator,
    Open,
    Close,
    NewLine,
}

struct Tokens<'a> {
    rest: &'a str,
    place: (u32, u32),
}

impl<'a> Tokens<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text, place: (1, 1) }
    }

    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        for letter in taken.chars() {
            self.place =
                if letter == '\n' { (self.place.0 + 1, 1) } else { (self.place.0, self.place.1 + 1) };
        }
        taken
    }

    /// Bytes of a text, from its quote to the next one; the engine tells where one does not end.
    fn text(&self, quote: char) -> usize {
        let mut escaped = false;
        for (at, letter) in self.rest.char_indices().skip(1) {
            match letter {
                _ if escaped => escaped = false,
                '\\' if quote == '"' => escaped = true,
                '\n' if quote == '"' => return at,
                _ if letter == quote => return at + 1,
                _ => {}
            }
        }
        self.rest.len()
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = ((u32, u32), Token<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let place = self.place;
            let first = self.rest.chars().next()?;
            let run =
                |holds: fn(char) -> bool| self.rest.find(|letter| !holds(letter)).unwrap_or(self.rest.len());
            let token = match first {
                '\n' => {
                    self.take(1);
                    Token::NewLine
                }
                '#' => {
                    let end = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.take(end);
                    continue;
                }
                '"' | '`' => Token::Word(self.take(self.text(first))),
                _ if first.is_whitespace() => {
                    self.take(first.len_utf8());
                    continue;
                }
                _ if first.is_alphanumeric() || first == '_' => {
                    let end = run(|letter| letter.is_alphanumeric() || letter == '_');
                    Token::Word(self.take(end))
                }
                _ => {
                    self.take(first.len_utf8());
                    match first {
                        '(' | '[' | '{' => Token::Open,
                        ')' | ']' | '}' => Token::Close,
                        ',' | ';' => Token::Separator,
                        _ => Token::Operator,
                    }
                }
            };
            return Some((place, token));
        }
    }
}
