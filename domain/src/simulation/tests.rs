use serde_json::json;

use super::*;
use crate::spiffe::SpiffeId;
use crate::time::Timestamp;

fn terms(ttl: u64, denies: &[&str]) -> Terms {
    Terms {
        ttl: Ttl::seconds(ttl),
        target: Some(("aws".to_owned(), json!({"role": "r"}))),
        narrowing: Narrowing {
            deny_statements: denies.iter().map(|action| json!({"Action": action})).collect(),
            ..Narrowing::default()
        },
    }
}

fn allowed(ttl: u64, denies: &[&str]) -> Outcome {
    Outcome::Allowed(Some(terms(ttl, denies)))
}

fn denied(reason: &'static str) -> Outcome {
    Outcome::Denied { reason, message: format!("told {reason}") }
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().expect("an id")
}

fn name(group: &Group) -> &str {
    group.spiffe_id.segments().last().expect("a path")
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix_seconds(second)
}

fn asked(second: i64, who: &str, scope: &str) -> Replayed {
    Replayed {
        at: at(second),
        request: format!("r{second}"),
        spiffe_id: id(who),
        subject: Subject { what: What::Credential, name: scope.to_owned() },
        refused: None,
    }
}

#[test]
fn an_answer_is_more_or_less_or_something_else() {
    use Change::{Altered, DeniedOtherwise, Narrowed, NewlyAllowed, NewlyDenied, Widened};
    let other_target = Outcome::Allowed(Some(Terms { target: None, ..terms(60, &[]) }));
    let mut tagged = terms(60, &[]);
    tagged.narrowing.tags.insert("team".to_owned(), "ml".to_owned());
    let tagged = Outcome::Allowed(Some(tagged));
    for (before, after, change) in [
        (allowed(60, &[]), allowed(60, &[]), None),
        (allowed(60, &["a", "b"]), allowed(60, &["b", "a"]), None),
        (Outcome::Allowed(None), Outcome::Allowed(None), None),
        (denied("X"), denied("X"), None),
        (allowed(60, &[]), denied("X"), Some(NewlyDenied)),
        (denied("X"), allowed(60, &[]), Some(NewlyAllowed)),
        (denied("X"), denied("Y"), Some(DeniedOtherwise)),
        (allowed(60, &[]), allowed(30, &[]), Some(Narrowed)),
        (allowed(60, &["a"]), allowed(60, &["a", "b"]), Some(Narrowed)),
        (allowed(60, &[]), allowed(90, &[]), Some(Widened)),
        (allowed(60, &["a", "b"]), allowed(60, &["b"]), Some(Widened)),
        (allowed(60, &["a"]), allowed(60, &["b"]), Some(Altered)),
        (allowed(60, &["a"]), allowed(30, &[]), Some(Altered)),
        (allowed(60, &[]), tagged, Some(Altered)),
        (allowed(60, &[]), other_target, Some(Altered)),
    ] {
        assert_eq!(Change::between(&before, &after), change, "{before:?} to {after:?}");
    }
}

#[test]
fn requests_that_change_alike_are_one_group_and_what_newly_fails_comes_first() {
    let mut tally = Tally::new(10);
    tally.add(asked(5, "a", "s"), &denied("X"), &allowed(60, &[]));
    for second in [7, 3, 9] {
        tally.add(asked(second, "a", "s"), &allowed(60, &[]), &denied("X"));
    }
    tally.add(asked(1, "b", "s"), &allowed(60, &[]), &denied("X"));
    tally.add(asked(2, "a", "s"), &allowed(60, &[]), &denied("Y"));
    tally.add(asked(4, "a", "s"), &allowed(60, &[]), &allowed(60, &[]));
    tally.skip(NotReplayed::TaskUnknown, 2);
    let summary = tally.finish();
    let told: Vec<_> = summary
        .groups
        .iter()
        .map(|group| (group.change, name(group), group.before, group.after, group.requests))
        .collect();
    assert_eq!(
        told,
        [
            (Change::NewlyDenied, "a", "allow", "X", 3),
            (Change::NewlyDenied, "a", "allow", "Y", 1),
            (Change::NewlyDenied, "b", "allow", "X", 1),
            (Change::NewlyAllowed, "a", "X", "allow", 1),
        ]
    );
    let largest = &summary.groups[0];
    assert_eq!((largest.first, largest.last, largest.example.as_str()), (at(3), at(9), "r7"));
    assert_eq!((largest.message.as_str(), largest.ttl), ("told X", (Some(Ttl::seconds(60)), None)));
    assert_eq!((summary.replayed, summary.unchanged), (7, 1));
    assert_eq!(summary.not_replayed, [(NotReplayed::TaskUnknown, 2)]);
    let requests: u64 = summary.totals.iter().map(|(_, total)| total.requests).sum();
    assert_eq!(requests + summary.unchanged, summary.replayed);
}

#[test]
fn beyond_its_room_a_change_is_still_counted_and_takes_no_room_of_others() {
    let mut tally = Tally::new(2);
    for (second, who) in [(1, "a"), (2, "b"), (3, "c"), (4, "c"), (5, "a")] {
        tally.add(asked(second, who, "s"), &denied("X"), &allowed(60, &[]));
    }
    tally.add(asked(6, "d", "s"), &allowed(60, &[]), &denied("X"));
    let summary = tally.finish();
    let told: Vec<_> = summary.groups.iter().map(|group| (name(group), group.requests)).collect();
    assert_eq!(told, [("d", 1), ("a", 2), ("b", 1)]);
    let of = |change| summary.totals.iter().find(|(one, _)| *one == change).expect("every change").1;
    assert_eq!(of(Change::NewlyAllowed), Total { requests: 5, without_group: 2 });
    assert_eq!(of(Change::NewlyDenied), Total { requests: 1, without_group: 0 });
}

#[test]
fn counted_refusals_are_counted_as_the_equal_one_that_has_a_record() {
    let refused = |second, scope: &str| Replayed {
        refused: Some(("X".to_owned(), scope.to_owned())),
        ..asked(second, "a", scope)
    };
    let repeated = |reason: &str, scope: &str, since, requests| Repeated {
        spiffe_id: id("a"),
        reason: reason.to_owned(),
        scope: scope.to_owned(),
        since: at(since),
        at: at(70),
        requests,
    };
    let mut tally = Tally::new(10);
    tally.add(refused(10, "s"), &denied("X"), &allowed(60, &[]));
    tally.add(refused(11, "t"), &denied("X"), &denied("X"));
    tally.repeat(repeated("X", "s", 10, 90));
    tally.repeat(repeated("X", "t", 10, 40));
    tally.repeat(repeated("Y", "s", 10, 5));
    tally.repeat(repeated("X", "u", 10, 6));
    // The record that is remembered is of an earlier minute.
    tally.repeat(repeated("X", "s", 30, 7));
    let summary = tally.finish();
    assert_eq!((summary.replayed, summary.unchanged), (132, 41));
    assert_eq!(summary.not_replayed, [(NotReplayed::CountedOnly, 18)]);
    assert_eq!((summary.groups[0].requests, summary.groups[0].last), (91, at(70)));
}
