//! Policies made at random of the language that policies are written in.
//!
//! What they are made of is more than what is allowed: loading refuses the rest, and the rest is what engines differ on.

use std::fmt::Write as _;

use rand::Rng;
use rand::rngs::StdRng;

use crate::ask::{self, dice, differences, load};
use crate::inputs::{one, request};

/// Policies that are made; about half are refused.
const MADE: usize = 300;
/// Inputs of each.
const INPUTS: usize = 25;

#[tokio::test]
async fn opa_and_both_engines_agree_on_policies_made_at_random() {
    let mut dice = dice(2);
    let mut all = Vec::new();
    for number in 0..MADE {
        let (name, rules) = (format!("made{number}"), Maker::new(&mut dice).policy());
        let source = ask::policy(&name, &rules.replace("PACKAGE", &name));
        if let Ok(set) = load(&source) {
            all.push((source, set, (0..INPUTS).map(|_| request(&mut dice)).collect()));
        }
    }
    ask::leave_out_what_opa_refuses(&mut all).await;
    assert!(all.len() > MADE / 8, "only {} of {MADE} policies were loaded", all.len());
    let (found, values) = differences(&all).await;
    assert!(found.is_empty(), "{} of {} policies differ:\n{}", found.len(), all.len(), found.join("\n"));
    assert!(values > all.len() * INPUTS / 2, "only {values} decisions had a value");
}

/// Names that are bound, by what they hold.
#[derive(Clone, Default)]
struct Bound {
    texts: Vec<String>,
    numbers: Vec<String>,
}

struct Maker<'a> {
    dice: &'a mut StdRng,
    names: usize,
    /// Rules that were made before.
    rules: Vec<&'static str>,
}

impl<'a> Maker<'a> {
    fn new(dice: &'a mut StdRng) -> Self {
        Self { dice, names: 0, rules: Vec::new() }
    }

    fn policy(mut self) -> String {
        let mut text = String::new();
        for name in ["word", "holds", "words", "shape", "tests"] {
            let rule = self.rule(name);
            write!(text, "{rule}\n\n").unwrap();
            self.rules.push(name);
        }
        for _ in 0..2 {
            let (body, mut bound) = self.body(Bound::default(), 2, 0);
            let reason = self.word(&mut bound, 1);
            write!(text, "reasons contains {reason} if {{\n\t{body}\n}}\n\n").unwrap();
        }
        let (first, second) = (self.condition(&Bound::default(), 0), self.condition(&Bound::default(), 0));
        write!(text, "tier := 1 if {{\n\t{first}\n}} else := 2 if {{\n\t{second}\n}} else := 3\n\n").unwrap();
        let many = self.many(&Bound::default(), 0);
        write!(
            text,
            "decision := {{\"allow\": count(reasons) == 0, \"reasons\": reasons, \"tier\": tier, \"many\": {many}}}"
        )
        .unwrap();
        text
    }

    fn rule(&mut self, name: &str) -> String {
        let of_argument = Bound { texts: vec!["x".to_owned()], ..Bound::default() };
        match name {
            "word" => match self.dice.random_range(0..3) {
                0 => format!("word := {}", self.word(&mut Bound::default(), 0)),
                1 => {
                    let condition = self.condition(&Bound::default(), 0);
                    format!("default word := \"d\"\n\nword := \"w\" if {{\n\t{condition}\n}}")
                }
                _ => {
                    let (body, mut bound) = self.body(Bound::default(), 1, 0);
                    format!("word := {} if {{\n\t{body}\n}}", self.settled(&mut bound))
                }
            },
            "holds" => {
                let bodies: Vec<_> = (0..2).map(|_| self.body(Bound::default(), 2, 0).0).collect();
                format!("holds if {{\n\t{}\n}}\n\nholds if {{\n\t{}\n}}", bodies[0], bodies[1])
            }
            "words" => {
                let (body, mut bound) = self.body(Bound::default(), 2, 0);
                format!("words contains {} if {{\n\t{body}\n}}", self.word(&mut bound, 0))
            }
            "shape" => match self.dice.random_range(0..2) {
                0 => format!("shape(x) := {}", self.word(&mut of_argument.clone(), 0)),
                _ => format!(
                    "shape(x) := \"p\" if {{\n\t{}\n}} else := \"q\"",
                    self.condition(&of_argument, 0)
                ),
            },
            _ => format!("tests(x) if {{\n\t{}\n}}", self.body(of_argument, 2, 0).0),
        }
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }

    fn pick<'b>(&mut self, choices: &[&'b str]) -> &'b str {
        one(self.dice, choices)
    }

    /// A constant, a name, or what every request has.
    fn settled(&mut self, bound: &mut Bound) -> String {
        match self.dice.random_range(0..6) {
            0 => format!("\"{}\"", self.pick(&["a", "ab", "red", "aws", "tool", ""])),
            1 => format!(
                "input.{}",
                self.pick(&["proven.stage", "proven.provider", "observed.anchor", "claimed.intent"])
            ),
            _ if bound.texts.is_empty() => format!("\"{}\"", self.pick(&["a", "tool"])),
            _ => bound.texts[self.dice.random_range(0..bound.texts.len())].clone(),
        }
    }

    /// A text that may be undefined.
    fn word(&mut self, bound: &mut Bound, depth: usize) -> String {
        if depth > 2 {
            return self.settled(bound);
        }
        match self.dice.random_range(0..14) {
            0..4 => self.settled(bound),
            4 => "input.claimed.labels.team".to_owned(),
            5 => "input.claimed.artifact.digest".to_owned(),
            6 => "input.claimed.parameters[\"dataset\"]".to_owned(),
            7 => format!("concat(\"-\", [{}, {}])", self.word(bound, depth + 1), self.word(bound, depth + 1)),
            8 => {
                let (key, or) = (self.settled(bound), self.settled(bound));
                format!("object.get(input.claimed.labels, {key}, {or})")
            }
            9 => {
                let function = self.pick(&["trim_prefix", "trim", "trim_suffix"]);
                format!("{function}({}, {})", self.word(bound, depth + 1), self.settled(bound))
            }
            10 => format!("substring({}, 0, 2)", self.word(bound, depth + 1)),
            11 if self.rules.contains(&"word") => {
                self.pick(&["word", "word", "data.dayfly.PACKAGE.word"]).to_owned()
            }
            12 if self.rules.contains(&"shape") => {
                let argument =
                    if self.dice.random_bool(0.8) { self.settled(bound) } else { self.word(bound, 2) };
                format!("shape({argument})")
            }
            _ => format!("sprintf(\"%v/%v\", [{}, {}])", self.word(bound, depth + 1), self.number(bound, 2)),
        }
    }

    fn number(&mut self, bound: &Bound, depth: usize) -> String {
        match self.dice.random_range(0..if depth > 1 { 3 } else { 7 }) {
            0 => self.dice.random_range(0..4).to_string(),
            1 => format!("input.{}", self.pick(&["proven.task.depth", "claimed.ttl", "observed.cgroup_id"])),
            2 if !bound.numbers.is_empty() => {
                bound.numbers[self.dice.random_range(0..bound.numbers.len())].clone()
            }
            2 => "3".to_owned(),
            3 | 4 => format!("count({})", self.many(bound, depth + 1)),
            5 => {
                format!("(input.proven.now - input.proven.task.opened_at) % {}", self.dice.random_range(2..9))
            }
            _ => {
                let operator = self.pick(&["+", "-", "*"]);
                format!("({} {operator} {})", self.number(bound, depth + 1), self.number(bound, depth + 1))
            }
        }
    }

    /// A collection of texts.
    fn many(&mut self, bound: &Bound, depth: usize) -> String {
        let mut bound = bound.clone();
        match self.dice.random_range(0..if depth > 1 { 4 } else { 9 }) {
            0 => format!("split({}, \" \")", self.settled(&mut bound)),
            1 => format!("[{}, {}]", self.settled(&mut bound), self.settled(&mut bound)),
            2 => format!("{{{}, \"zz\"}}", self.settled(&mut bound)),
            3 if self.rules.contains(&"words") => "words".to_owned(),
            3 => "object.keys(input.claimed.labels)".to_owned(),
            4 | 5 => {
                let ((body, mut inner), head) =
                    (self.comprehension(bound, depth + 1), self.dice.random_bool(0.8));
                let head = if head { self.settled(&mut inner) } else { self.word(&mut inner, 2) };
                format!("[{head} | {body}]")
            }
            6 | 7 => {
                let (body, mut inner) = self.comprehension(bound, depth + 1);
                format!("{{{} | {body}}}", self.word(&mut inner, 1))
            }
            _ => format!("({{{}}} | {{{}}})", self.settled(&mut bound), self.settled(&mut bound)),
        }
    }

    fn comprehension(&mut self, bound: Bound, depth: usize) -> (String, Bound) {
        if self.dice.random_bool(0.1) {
            return self.body(bound, 2, depth);
        }
        let (some, bound) = self.some(bound, depth);
        let more = self.dice.random_range(0..3);
        let (body, bound) = self.body(bound, more, depth);
        (if body.is_empty() { some } else { format!("{some}; {body}") }, bound)
    }

    fn some(&mut self, mut bound: Bound, depth: usize) -> (String, Bound) {
        let name = self.name();
        let text = match self.dice.random_range(0..4) {
            0 => format!("some {name} in {}", self.many(&bound, depth + 1)),
            1 => format!("some _, {name} in input.claimed.labels"),
            _ => {
                let link = self.name();
                format!(
                    "some {link} in input.proven.chain; {name} := {link}.{}",
                    self.pick(&["stage", "spiffe_id"])
                )
            }
        };
        bound.texts.push(name);
        (text, bound)
    }

    fn body(&mut self, mut bound: Bound, statements: usize, depth: usize) -> (String, Bound) {
        let mut body = Vec::new();
        for _ in 0..statements {
            body.push(match self.dice.random_range(0..11) {
                0..4 => self.condition(&bound, depth),
                4 | 5 => format!("not {}", self.condition(&bound, depth + 1)),
                6 => {
                    let (value, name) = (self.word(&mut bound, depth + 1), self.name());
                    bound.texts.push(name.clone());
                    format!("{name} := {value}")
                }
                7 => {
                    let (value, name) = (self.number(&bound, depth + 1), self.name());
                    bound.numbers.push(name.clone());
                    format!("{name} := {value}")
                }
                8 | 9 => {
                    let (text, inner) = self.some(bound, depth);
                    bound = inner;
                    text
                }
                _ => {
                    let (name, many) = (self.name(), self.many(&bound, depth + 1));
                    let mut inner = bound.clone();
                    inner.texts.push(name.clone());
                    let first =
                        format!("{name} {} {}", self.pick(&["==", "!=", "<"]), self.settled(&mut bound));
                    let more = if self.dice.random_bool(0.3) {
                        format!("; {}", self.condition(&inner, depth + 1))
                    } else {
                        String::new()
                    };
                    format!("every {name} in {many} {{ {first}{more} }}")
                }
            });
        }
        (body.join("; "), bound)
    }

    fn condition(&mut self, bound: &Bound, depth: usize) -> String {
        let mut of = bound.clone();
        match self.dice.random_range(0..if depth > 2 { 4 } else { 11 }) {
            0 => format!("{} > {}", self.number(bound, 2), self.dice.random_range(0..4)),
            1 => {
                let operator = self.pick(&["==", "!=", "<"]);
                format!("{} {operator} {}", self.word(&mut of, depth + 1), self.settled(&mut of))
            }
            2 => self
                .pick(&[
                    "input.observed.node",
                    "input.claimed.artifact",
                    "input.claimed.labels.ticket",
                    "input.proven.now",
                ])
                .to_owned(),
            3 if self.rules.contains(&"holds") => "holds".to_owned(),
            4 if self.dice.random_bool(0.5) => {
                format!("{} in {{\"tool\", \"a\", \"red\"}}", self.word(&mut of, depth + 1))
            }
            4 => format!("{} in {}", self.word(&mut of, depth + 1), self.many(bound, depth + 1)),
            5 => {
                let function = self.pick(&["startswith", "contains", "endswith"]);
                format!("{function}({}, {})", self.word(&mut of, depth + 1), self.word(&mut of, depth + 1))
            }
            6 if self.rules.contains(&"tests") => format!("tests({})", self.settled(&mut of)),
            7 => format!("regex.match(`^[a-z]+(-[0-9]{{1,3}})?$`, {})", self.word(&mut of, depth + 1)),
            8 => format!("glob.match(\"spiffe://*/tool/**\", [\"/\"], {})", self.word(&mut of, depth + 1)),
            9 => format!("{} == {}", self.many(bound, depth + 1), self.many(bound, depth + 1)),
            _ => {
                let operator = self.pick(&["==", "!=", "<", ">="]);
                format!("{} {operator} {}", self.number(bound, 1), self.number(bound, 1))
            }
        }
    }
}
