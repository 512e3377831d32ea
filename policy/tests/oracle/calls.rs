//! Every function that policies may call, with arguments it was made for and with others.

use dayfly_policy::ALLOWED_BUILTINS;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Map, Value, json};

use crate::ask::{self, dice, differences, load};
use crate::inputs::{anything, list, text, whole};

/// What an argument is made for.
#[derive(Clone, Copy)]
enum Of {
    Text,
    /// Never anything else.
    TextAlone,
    Texts,
    Whole,
    Wholes,
    List,
    Object,
    Objects,
    Nanoseconds,
    Any,
}
use Of::{Any, List, Nanoseconds, Object, Objects, Text, TextAlone, Texts, Whole, Wholes};

/// Calls of each function; `$1` is the first argument. Those of patterns and times are asked in `patterns`.
const CALLS: &[(&str, &[Of])] = &[
    ("abs($1)", &[Whole]),
    ("array.concat($1, $2)", &[List, List]),
    ("array.reverse($1)", &[List]),
    ("array.slice($1, $2, $3)", &[List, Whole, Whole]),
    ("concat($1, $2)", &[Text, Texts]),
    ("concat($1, {x | some x in $2})", &[Text, List]),
    ("contains($1, $2)", &[Text, Text]),
    ("count({x | some x in $1})", &[List]),
    ("endswith($1, $2)", &[Text, Text]),
    ("intersection({{x | some x in $1}, {x | some x in $2}})", &[List, List]),
    ("is_array($1)", &[Any]),
    ("is_boolean($1)", &[Any]),
    ("is_null($1)", &[Any]),
    ("is_number($1)", &[Any]),
    ("is_object($1)", &[Any]),
    ("is_set({x | some x in $1})", &[List]),
    ("is_set($1)", &[Any]),
    ("is_string($1)", &[Any]),
    ("max($1)", &[List]),
    ("max({x | some x in $1})", &[List]),
    ("min($1)", &[List]),
    ("min({x | some x in $1})", &[List]),
    ("object.filter($1, $2)", &[Object, Texts]),
    ("object.get($1, $2, $3)", &[Object, Text, Any]),
    ("object.get($1, $2, $3)", &[Object, Texts, Any]),
    ("object.keys($1)", &[Object]),
    ("object.remove($1, $2)", &[Object, Texts]),
    ("object.union($1, $2)", &[Object, Object]),
    ("object.union_n($1)", &[Objects]),
    ("replace($1, $2, $3)", &[Text, Text, Text]),
    ("sort($1)", &[List]),
    ("sort({x | some x in $1})", &[List]),
    ("split($1, $2)", &[Text, Text]),
    ("startswith($1, $2)", &[Text, Text]),
    ("strings.any_prefix_match($1, $2)", &[Text, Texts]),
    ("strings.any_prefix_match($1, $2)", &[Texts, Text]),
    ("strings.any_suffix_match($1, $2)", &[Texts, Texts]),
    ("strings.reverse($1)", &[Text]),
    ("substring($1, $2, $3)", &[Text, Whole, Whole]),
    ("sum($1)", &[Wholes]),
    ("sum({x | some x in $1})", &[Wholes]),
    ("time.clock($1)", &[Nanoseconds]),
    ("time.clock([$1, \"Europe/Berlin\"])", &[Nanoseconds]),
    ("time.date($1)", &[Nanoseconds]),
    ("time.date([$1, \"America/New_York\"])", &[Nanoseconds]),
    ("time.weekday($1)", &[Nanoseconds]),
    ("time.weekday([$1, \"Asia/Tokyo\"])", &[Nanoseconds]),
    ("trim($1, $2)", &[Text, Text]),
    ("trim_left($1, $2)", &[Text, Text]),
    ("trim_prefix($1, $2)", &[Text, Text]),
    ("trim_right($1, $2)", &[Text, Text]),
    ("trim_space($1)", &[Text]),
    ("trim_suffix($1, $2)", &[Text, Text]),
    ("type_name($1)", &[Any]),
    ("union({{x | some x in $1}, {x | some x in $2}})", &[List, List]),
    // Operators.
    ("$1 + $2", &[Whole, Whole]),
    ("$1 - $2", &[Whole, Whole]),
    ("$1 * $2", &[Whole, Whole]),
    ("$1 % $2", &[Whole, Whole]),
    ("$1 == $2", &[Any, Any]),
    ("$1 < $2", &[Any, Any]),
    ("$1 >= $2", &[Any, Any]),
    ("[1 | some x in $1; x in $2]", &[List, List]),
    ("{x | some x in $1} - {x | some x in $2}", &[List, List]),
    ("{x | some x in $1} < {x | some x in $2}", &[List, List]),
    ("[[k, x] | some k, x in $1]", &[List]),
    ("$1[$2]", &[Object, Text]),
    ("sprintf(\"<%v> %%\", [$1])", &[TextAlone]),
    ("sprintf(\"<%v>\", [$1])", &[Whole]),
];

/// A call as a rule, and inputs for it.
fn asked(call: &str, arguments: &[Of], dice: &mut StdRng) -> (String, Vec<Value>) {
    let names =
        (1..=arguments.len()).map(|at| format!("x{at} := object.get(input.claimed, \"x{at}\", null)"));
    let mut call = call.to_owned();
    for at in 1..=arguments.len() {
        call = call.replace(&format!("${at}"), &format!("x{at}"));
    }
    let rules =
        format!("decision := y if {{\n\t{}\n\ty := {call}\n}}", names.collect::<Vec<_>>().join("\n\t"));
    let inputs = (0..60).map(|_| {
        let values = arguments.iter().enumerate();
        let values = values.map(|(at, of)| (format!("x{}", at + 1), argument(*of, dice)));
        json!({ "claimed": values.collect::<Map<_, _>>() })
    });
    (rules, inputs.collect())
}

fn argument(of: Of, dice: &mut StdRng) -> Value {
    let some = dice.random_range(0..5);
    match of {
        // Arithmetic and `some … in` fail in the interpreter where they are undefined elsewhere: what they are given
        // wrongly is left out.
        Text | Texts | Object | Objects if dice.random_bool(0.05) => anything(dice, 0),
        Any => anything(dice, 0),
        Text | TextAlone => text(dice).into(),
        Texts => (0..some).map(|_| Value::from(text(dice))).collect(),
        Whole => whole(dice).into(),
        Wholes => (0..some).map(|_| Value::from(whole(dice))).collect(),
        List => list(dice, 0),
        Object => object(dice),
        Objects => (0..some).map(|_| object(dice)).collect(),
        Nanoseconds => dice.random_range(0..4_000_000_000_000_000_000_i64).into(),
    }
}

fn object(dice: &mut StdRng) -> Value {
    (0..dice.random_range(0..4)).map(|_| (text(dice), anything(dice, 1))).collect::<Map<_, _>>().into()
}

#[tokio::test]
async fn opa_and_both_engines_agree_on_every_function_that_may_be_called() {
    let mut dice = dice(1);
    let mut all = Vec::new();
    for (number, (call, arguments)) in CALLS.iter().enumerate() {
        let (rules, inputs) = asked(call, arguments, &mut dice);
        let policy = ask::policy(&format!("call{number}"), &rules);
        let set = load(&policy).unwrap_or_else(|faults| panic!("{call}: {faults}"));
        all.push((policy, set, inputs));
    }
    let (found, values) = differences(&all).await;
    assert!(found.is_empty(), "{} of {} calls differ:\n{}", found.len(), CALLS.len(), found.join("\n"));
    assert!(values > CALLS.len() * 30, "only {values} calls had a value");
}

#[test]
fn no_function_that_may_be_called_is_left_unasked() {
    const OF_PATTERNS: [&str; 3] = ["glob.match", "regex.match", "time.parse_rfc3339_ns"];
    for name in ALLOWED_BUILTINS {
        let call = format!("{name}(");
        let asked = CALLS.iter().any(|(text, _)| text.starts_with(&call));
        assert!(asked || OF_PATTERNS.contains(name), "{name} is allowed and nobody asks OPA about it");
    }
}
