//! The deny document against an evaluator of its own, over random lives of a role.

mod evaluator;
mod role;

use self::evaluator::Policy;
use self::role::{Known, Random, Role, SKEW, blocks};
use super::*;
use crate::lease::RevokeCause;
use crate::task::EndCause;
use crate::time::{Timestamp, Ttl};

const T0: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

fn slot(number: usize) -> Slot {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let character = |number: usize| char::from(ALPHABET[number % 64]);
    let text: String = [number / 4096, number / 64, number].map(character).iter().collect();
    text.parse().expect("a slot")
}

/// A session of that slot that was issued at exactly this second, some time before [`T0`], and lives for an hour.
fn session(number: usize, issued: i64, revoked: bool) -> Session {
    let at = Timestamp::from_unix_seconds(T0.unix_seconds() + issued);
    Session { revoked, ..Session::between(slot(number), at, at, at + Ttl::hours(1), Ttl::ZERO) }
}

#[test]
fn over_10000_random_histories_the_document_denies_the_revoked_alone_and_fits() {
    let mut seen = role::Seen::default();
    for seed in 0..10_000 {
        let mut random = Random::new(seed);
        let mut role = Role::new(T0, Capacity::entries(3 + random.below(14)));
        for _ in 0..40 {
            role.step(&mut random);
        }
        seen.add(&role.seen);
    }
    // None of what the test is for went unseen.
    assert!(seen.opened > 40_000 && seen.refused > 5_000, "{seen:?}");
    assert!(seen.revoked > 20_000 && seen.collected > 3_000 && seen.reused > 100, "{seen:?}");
    assert!(seen.by_watermark > 1_000 && seen.by_block > 1_000 && seen.spared > 1_000, "{seen:?}");
}

#[test]
fn a_full_role_fits_whichever_half_of_it_is_revoked() {
    let capacity = Capacity::OF_A_ROLE;
    let sessions = |revoked: &dyn Fn(usize) -> bool, count: usize| -> State {
        // One block each, so that no pattern helps; one second each, so that a watermark falls anywhere.
        let sessions =
            (0..count).map(|n| session(n * 64, -3500 + i64::try_from(n).expect("small"), revoked(n)));
        State::at(T0, SKEW, sessions)
    };
    let mut count = 0;
    while capacity.admits(count, 0, 0) {
        count += 1;
    }
    assert!(count > 3_000, "{count}");
    let count = usize::try_from(count).expect("small");
    let halves: [(&str, &dyn Fn(usize) -> bool); 6] = [
        ("none", &|_| false),
        ("all", &|_| true),
        ("every other", &|n| n % 2 == 0),
        ("the older", &|n| n < count / 2),
        ("the younger", &|n| n >= count / 2),
        ("three of four", &|n| n % 4 != 0),
    ];
    for (name, revoked) in halves {
        let state = sessions(revoked, count);
        let document = state.document();
        let text = document.text();
        assert!(
            !text.contains(char::is_whitespace) && text.len() <= MOST_CHARACTERS,
            "{name}: {}",
            text.len()
        );
        assert!(document.entries() <= usize::try_from(capacity.get()).expect("small"), "{name}");
        let policy = Policy::parse(&text);
        for one in state.sessions().iter().step_by(7) {
            assert_eq!(
                policy.denies(Some(&one.slot.to_string()), one.earliest),
                one.revoked,
                "{name} {one:?}"
            );
        }
    }
    let all = sessions(&|_| true, count).document();
    assert!(all.text().len() < 400, "a role that ends as a whole needs no list: {}", all.text().len());
}

#[test]
fn what_is_fixed_in_a_document_is_never_longer_than_the_entries_leave_room_for() {
    let young = T0.unix_seconds();
    let sessions =
        [session(0, -100, true), session(64, -90, true), session(128, -120, false), session(192, -110, true)]
            .into_iter()
            .chain([Session { latest: young, ..session(256, -5, true) }]);
    let document = State::at(T0, Ttl::ZERO, sessions).document();
    assert!(
        document.text().contains("StringNotLike") && document.text().contains("StringLike"),
        "{}",
        document.text()
    );
    assert!(
        document.text().len() - 6 * document.entries() <= document::FIXED_CHARACTERS,
        "{}",
        document.text()
    );
}

#[test]
fn the_document_of_an_untouched_role_denies_sessions_without_a_slot_alone() {
    let text = State::at(T0, SKEW, [session(1, -100, false)]).document().text();
    assert_eq!(
        text,
        r#"{"Statement":[{"Action":"*","Condition":{"Null":{"aws:PrincipalTag/dayfly-slot":"true"}},"Effect":"Deny","Resource":"*"}],"Version":"2012-10-17"}"#
    );
    let policy = Policy::parse(&text);
    assert!(policy.denies(None, T0.unix_seconds()));
    assert!(!policy.denies(Some("AAB"), T0.unix_seconds()) && !policy.denies(Some("___"), 0));
}

#[test]
fn a_pattern_stands_for_a_whole_block_only_while_nothing_lives_in_it() {
    let of = |last_revoked: bool| {
        let young = T0.unix_seconds();
        let young = |number, revoked| Session { latest: young, ..session(number, -1, revoked) };
        State::at(T0, SKEW, [young(64, true), young(65, true), young(66, last_revoked)]).document().text()
    };
    assert!(of(true).contains(r#"["AB*"]"#), "{}", of(true));
    assert!(of(false).contains(r#"["ABA","ABB"]"#), "{}", of(false));
}

#[test]
fn two_trees_never_share_a_block_and_a_revoked_block_gets_no_new_session() {
    let known = |number, tree, revoked| Known { session: session(number, -1, revoked), tree };
    let sessions = vec![known(0, 1, false), known(1, 1, true), known(64, 2, true), known(65, 2, true)];
    let next = |tree: u32, now: Timestamp| blocks(&sessions, tree, now).allocate(0).expect("a slot");
    assert_eq!(next(1, T0), slot(2), "its own block, beside what lives there");
    assert_eq!(next(2, T0), slot(128), "all of its block may be one pattern by now");
    assert_eq!(next(3, T0), slot(128));
    assert_eq!(next(1, T0 + Ttl::minutes(59)), slot(128), "the last one there is about to be gone");
    let full: Vec<_> = (0..4096).map(|block| known(block * 64, 1, true)).collect();
    assert_eq!(blocks(&full, 1, T0).allocate(7), None);
    let one_block: Vec<_> = (0..64).map(|number| known(number, 1, false)).collect();
    assert_eq!(blocks(&one_block, 1, T0).allocate(5), Some(slot(5 * 64)));
}

#[test]
fn a_slot_is_free_again_only_when_no_document_can_mean_it() {
    let propagation = Ttl::minutes(5);
    let (living, revoked) = (session(0, -3600, false), session(0, -3600, true));
    let written = |of: Timestamp, at: Timestamp| Some(Written { of, at });
    assert!(!living.is_forgettable(None, T0 - Ttl::seconds(1), propagation));
    assert!(living.is_forgettable(None, T0, propagation), "no document ever named it");
    assert!(!revoked.is_forgettable(None, T0 + Ttl::hours(9), propagation));
    let before = written(T0 - Ttl::seconds(1), T0);
    assert!(!revoked.is_forgettable(before, T0 + Ttl::hours(9), propagation), "the last one still names it");
    let without = written(T0, T0 + Ttl::seconds(1));
    assert!(!revoked.is_forgettable(without, T0 + propagation, propagation), "not everywhere yet");
    assert!(revoked.is_forgettable(without, T0 + propagation + Ttl::seconds(1), propagation));
}

#[test]
fn slots_read_back_as_written_and_nothing_else_is_one() {
    for number in [0, 1, 63, 64, 4095, 4096, 262_143] {
        let slot = slot(number);
        assert_eq!(slot.to_string().parse(), Ok(slot));
    }
    for text in ["", "ab", "abcd", "ab*", "ab?", "a b", "äb", "${a"] {
        assert_eq!(text.parse::<Slot>(), Err(NotASlot), "{text}");
    }
}

#[test]
fn a_scope_says_when_a_session_is_worth_a_deny_and_an_admins_word_always_is() {
    let ended = RevokeCause::TaskEnded(EndCause::AnchorGone);
    for (text, cause, remaining, wanted) in [
        ("always", ended, 1, true),
        ("if_remaining > 2m", ended, 120, false),
        ("if_remaining > 2m", ended, 121, true),
        ("if_remaining>2m", RevokeCause::Admin, 1, true),
        ("admin_only", ended, 3600, false),
        ("admin_only", RevokeCause::Holder, 3600, false),
        ("admin_only", RevokeCause::Admin, 1, true),
        ("admin_only", RevokeCause::Uncovered, 1, true),
        ("admin_only", RevokeCause::TaskEnded(EndCause::Admin), 1, true),
        // The end above may have been an admin's.
        ("admin_only", RevokeCause::TaskEnded(EndCause::ParentEnded), 1, true),
    ] {
        let when: RevokeWhen = text.parse().expect("a time");
        assert_eq!(when.wants(cause, Ttl::seconds(remaining)), wanted, "{text} {cause:?}");
        assert_eq!(when.to_string().parse(), Ok(when));
    }
    for text in
        ["", "Always", "never", "if_remaining", "if_remaining > ", "if_remaining < 2m", "if_remaining > 2"]
    {
        assert_eq!(text.parse::<RevokeWhen>(), Err(NotAWhen), "{text}");
    }
}
