//! The part of Rego that policies are written in.

use super::*;

#[test]
fn what_engines_take_differently_is_refused() {
    let with = |rules: &str| policy(&format!("import future.keywords.not\n\n{rules}\n\nh := 1\n\nf(x) := x"));
    for (rules, says) in [
        ("decision := 1 if {\"a\", 1 in input.claimed.labels}", "key, value in"),
        ("decision := 1 if { {\"a\": x} := input.claimed.labels; x }", "name one value"),
        ("decision := 1 if { x = input.claimed.ttl; x }", "say :="),
        ("decision := 1 if { some [x, y] in input.proven.chain; x == y }", "no patterns"),
        ("decision := {k: v | some k, v in input.claimed.labels}", "union_n"),
        ("decision := [x | x := input.claimed.ttl]", "begins with some"),
        ("decision := [1 | h; some x in input.proven.chain; x]", "begins with some"),
        ("decision := [link.stage | some link in input.proven.chain]", "names and constants"),
        ("decision := {x | some x in y; y := input.proven.chain}", "before the comprehension"),
        ("decision := input.proven.chain[_].stage", "in brackets"),
        ("decision := 1 if { some i; input.proven.chain[i].stage == \"tool\" }", "say some … in"),
        ("decision := input.proven.chain[h]", "in brackets"),
        ("d[\"a\"] := 1\n\ndecision := d", "one name"),
        ("d.a := 1\n\ndecision := d", "one name"),
        ("d.a contains 1\n\ndecision := d", "one name"),
        ("default g(_) := 1\n\ng(x) := 2 if x == 1\n\ndecision := g(1)", "no default"),
        ("g(\"a\") := 1\n\ndecision := g(\"a\")", "no patterns"),
        ("count(x) := 1\n\ndecision := count(1)", "built-in function"),
        ("decision := f(input.claimed.labels.a)", "constants and names"),
        ("decision := 1 if not f(h)", "constants and names"),
        ("d := 1 if input.claimed.ttl > 5\n\nd := 2 if input.claimed.ttl > 9\n\ndecision := d", "with else"),
        ("d := input.claimed.ttl if h\n\nd := 2 if h\n\ndecision := d", "with else"),
        ("decision := 1 if h else := 2\n\ndecision := 3 if h", "with else"),
        ("decision := x if { some x in input.proven.chain }", "several values"),
        ("decision := input.claimed.labels.a if h else := 2", "beside an else"),
        ("decision := 1 if h else := input.claimed.labels.a", "beside an else"),
        ("decision := {input.claimed.intent: 1}", "written out once"),
        ("decision := {\"a\": 1, \"a\": 2}", "written out once"),
        ("decision := {\"allow\": input.claimed.labels.a in {\"a\"}}", "used as a value"),
        ("decision := 1 if \"a\" in {input.claimed.intent, \"b\"}", "holds constants"),
        ("decision := 1 if { some x in [h, 2]; x }", "holds constants"),
        ("decision := 1 if { some x in input.claimed.intent; x }", "no members"),
        ("decision := 1.5", "whole"),
        ("decision := 9007199254740993", "whole"),
        ("decision := input.claimed.ttl / 2", "quotients"),
        ("decision := count(input.claimed.intent)", "counts collections"),
        ("decision := count(concat(\"\", [\"a\"]))", "counts collections"),
        ("decision := sprintf(\"%s\", [\"a\"])", "%v and %%"),
        ("decision := sprintf(\"%v %v\", [1])", "asks for 2 values"),
        ("decision := sprintf(\"%v\", h)", "a list that is written out"),
        ("decision := sprintf(\"%v\", [[h]])", "join it"),
        ("decision := regex.match(input.claimed.intent, \"a\")", "written out"),
        ("decision := regex.match(`^\\d+$`, \"1\")", "[0-9]"),
        ("decision := regex.match(`(?i)a`, \"A\")", "(?:"),
        ("decision := regex.match(`[[:alpha:]]`, \"a\")", "a class holds"),
        ("decision := regex.match(`[a&&b]`, \"a\")", "a class holds"),
        ("decision := regex.match(`a**`, \"a\")", "behind another"),
        ("decision := regex.match(`(a{9}){9}`, \"a\")", "counted"),
        ("decision := regex.match(`a{101}`, \"a\")", "at most 100"),
        ("decision := regex.match(`(?:[^a]{99}|[^b]{99}|[^c]{99}|[^d]{99})`, \"a\")", "too large"),
        ("decision := glob.match(\"a?\", [\"/\"], \"ab\")", "letters, digits"),
        ("decision := glob.match(\"**/a\", [\"/\"], \"a\")", "at the end"),
        ("decision := glob.match(\"a*\", [], \"a\")", "the delimiters"),
        ("decision := glob.match(input.claimed.intent, [\"/\"], \"a\")", "written out"),
        ("decision := time.parse_rfc3339_ns(\"2026-11-21 12:00:00Z\")", "write the time out"),
        ("decision := time.parse_rfc3339_ns(input.claimed.intent)", "write the time out"),
    ] {
        let Err(faults) = PolicySet::load(&[with(rules)]) else { panic!("{rules}: no fault was found") };
        let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
        assert!(
            faults.iter().any(|fault| fault.contains(says) && fault.contains('^')),
            "{rules}: {faults:?}"
        );
    }
    let old_not = faults(policy("decision := 1 if not startswith(input.claimed.intent, \"a\")"));
    assert!(old_not[0].contains("import future.keywords.not"), "{old_not:?}");
    for rules in [
        "decision := 1 if not input.claimed.labels.a",
        "decision := [stage | some link in input.proven.chain; stage := link.stage]",
        "decision := {link.stage | some link in input.proven.chain; link.stage != \"tool\"}",
        "decision := 1 if input.claimed.labels.a in {\"a\", \"b\"} else := 2",
        "decision := f(input.proven.stage)",
        "decision := \"a\" if { some x in input.proven.chain; x.stage == \"tool\" }",
        "d if h\n\nd if input.claimed.ttl > 5\n\ndecision := d",
        "decision := regex.match(`^[a-z]+(?:-[0-9]{1,3})?\\.x$`, input.claimed.intent)",
        "decision := glob.match(\"spiffe://*/tool/**\", [\"/\"], input.proven.spiffe_id)",
        "decision := time.clock([input.proven.now * 1000000000, \"Europe/Berlin\"])[0] < 20",
    ] {
        load(with(rules));
    }
}

#[test]
fn the_machine_stops_where_a_name_has_no_value_and_reads_the_input_wherever_it_stands() {
    for rules in [
        "decision := {\"allow\": true} if {\n\tx := input.claimed.labels.ticket\n}",
        "decision := {\"allow\": true} if {\n\t[x, y] := [input.claimed.labels.ticket, 1]\n\ty == 1\n}",
        "ok if { x := input.claimed.labels.ticket } else := true if {\n\ty := input.claimed.labels.other\n}\n\ndecision := {\"allow\": true} if ok",
    ] {
        assert!(matches!(judged(rules), Judgement::Fail { .. }), "{rules}");
    }
    let empty = "none contains \"a\" if input.claimed.ttl == 1\n\n";
    for rules in [
        "reasons contains input.claimed.intent if every x in none { x != input.claimed.intent }",
        "reasons contains \"no\" if {\n\tevery x in none { x != input.claimed.intent }\n\tinput.claimed.ttl > 1 # \"not\" }\n}",
        "reasons := {\"list\": [x | some x in none; x != input.claimed.intent], \"said\": input.claimed.intent}",
        "reasons contains `said` if not input.claimed.ttl == 1",
    ] {
        let answer = "\n\ndecision := {\"allow\": count(reasons) == 0}";
        let judgement = judged(&format!("import future.keywords.not\n\n{empty}{rules}{answer}"));
        assert!(matches!(judgement, Judgement::Deny { .. }), "{rules}: {judgement:?}");
    }
}
