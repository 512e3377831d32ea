//! Patterns and times that policies may write out, against texts that nearly fit.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use crate::ask::{self, dice, differences, load, seed};
use crate::inputs::{one, text};

/// Patterns that are made of each kind.
const MADE: usize = 150;
/// Texts each is tried on.
const TEXTS: usize = 40;

#[tokio::test]
async fn opa_and_both_engines_agree_on_patterns_made_at_random() {
    let mut dice = dice(3);
    let mut all = Vec::new();
    for number in 0..2 * MADE {
        let (call, letters) = if number < MADE {
            let pattern = regex(&mut dice, 0);
            (format!("regex.match({}, x)", Value::from(pattern)), "aAb0_-/.äß\n\u{212a}")
        } else {
            let (pattern, delimiter) = (glob(&mut dice), one(&mut dice, &["/", "."]));
            (format!("glob.match({}, [\"{delimiter}\"], x)", Value::from(pattern)), "ab/.-*ä:")
        };
        let rules = format!("decision := y if {{\n\tx := input.claimed.text\n\ty := {call}\n}}");
        let policy = ask::policy(&format!("pattern{number}"), &rules);
        let Ok(set) = load(&policy) else { continue };
        let near = (0..TEXTS).map(|_| {
            let near = if dice.random_bool(0.2) { text(&mut dice) } else { some_of(&mut dice, letters) };
            json!({ "claimed": { "text": near } })
        });
        let near = near.collect();
        all.push((policy, set, near));
    }
    ask::leave_out_what_opa_refuses(&mut all).await;
    assert!(all.len() > MADE, "only {} patterns were loaded", all.len());
    let (found, values) = differences(&all).await;
    assert!(found.is_empty(), "{} of {} patterns differ:\n{}", found.len(), all.len(), found.join("\n"));
    assert_eq!(values, all.len() * TEXTS, "a pattern that is loaded answers, whatever the text is");
}

#[tokio::test]
async fn opa_and_both_engines_agree_on_times_that_are_written_out() {
    let mut dice = dice(4);
    let mut all = Vec::new();
    for number in 0..900 {
        let rules = format!("decision := time.parse_rfc3339_ns(\"{}\")", time(&mut dice));
        let policy = ask::policy(&format!("time{number}"), &rules);
        if let Ok(set) = load(&policy) {
            all.push((policy, set, vec![json!({})]));
        }
    }
    let (found, values) = differences(&all).await;
    assert!(found.is_empty(), "{} of {} times differ:\n{}", found.len(), all.len(), found.join("\n"));
    assert!(values > 15, "seed {}: only {values} times were times", seed());
}

fn some_of(dice: &mut StdRng, letters: &str) -> String {
    let letters: Vec<char> = letters.chars().collect();
    (0..dice.random_range(0..7)).map(|_| letters.choose(dice).expect("letters")).collect()
}

/// A regular expression: of what is allowed mostly, and of what is not.
fn regex(dice: &mut StdRng, depth: usize) -> String {
    let mut pattern = String::new();
    for _ in 0..dice.random_range(1..5) {
        pattern += &match dice.random_range(0..if depth > 1 { 7 } else { 9 }) {
            0..3 => one(dice, &["a", "b", "A", "0", "_", "ä", "/", "k", "ss"]).to_owned(),
            3 => ".".to_owned(),
            4 => one(dice, &["[ab]", "[a-c0]", "[^a]", "[^/]", "[a-zA-Z0-9_]", "[\\-_.]", "[ä-ü]", "[^\\]]"])
                .to_owned(),
            5 => one(dice, &["\\.", "\\/", "\\-", "\\$", "\\.", "\\d", "[[:alpha:]]"]).to_owned(),
            6 => one(dice, &["^", "$", "|", "|", "$", "^*"]).to_owned(),
            7 => format!("({})", regex(dice, depth + 1)),
            _ => format!("(?:{})", regex(dice, depth + 1)),
        };
        if dice.random_bool(0.3) {
            pattern += one(dice, &["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}", "*?"]);
        }
    }
    pattern
}

fn glob(dice: &mut StdRng) -> String {
    let parts = ["a", "b", "*", "a*", "*b", "a*b", "ab", "", "-", "?", ":", "*a*", "a*a*"];
    let parts: Vec<&str> = (0..dice.random_range(1..5)).map(|_| one(dice, &parts)).collect();
    let glob = parts.join(one(dice, &["/", "."]));
    if dice.random_bool(0.3) { format!("{glob}/**") } else { glob }
}

fn time(dice: &mut StdRng) -> String {
    let date = one(
        dice,
        &["2026-11-21", "2024-02-29", "2026-02-29", "1970-01-01", "2026-13-01", "1969-12-31", "2300-01-01"],
    );
    let between = one(dice, &["T", "T", "T", "t", " "]);
    let clock = one(dice, &["12:00:00", "23:59:59", "00:00:00", "24:00:00", "23:59:60", "1:00:00", "12:00"]);
    let fraction = one(dice, &["", "", ".5", ".123456789", ",5", "."]);
    let zone = one(dice, &["Z", "Z", "+02:00", "-11:30", "+24:00", "z", "", "+0200"]);
    format!("{date}{between}{clock}{fraction}{zone}")
}
