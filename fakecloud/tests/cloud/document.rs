//! The broker's deny document, read by this evaluator: the domain's own tests have another, and both must agree.

use dayfly_domain::aws_deny::{SLOT_TAG, Session, Slot, State};
use dayfly_domain::time::{Timestamp, Ttl};
use dayfly_fakecloud::policy::{Context, Decision, Document, Kind, Layer, Layers, Request, evaluate};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const NOW: i64 = 1_700_000_000;
const SKEW: Ttl = Ttl::seconds(5);

fn slot(number: u32) -> Slot {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let letter = |number: u32| char::from(ALPHABET[number as usize % 64]);
    [number / 4096, number / 64, number].map(letter).iter().collect::<String>().parse().unwrap()
}

/// Sessions in neighbouring slots and seconds, of which some share of them is revoked.
fn sessions(random: &mut StdRng) -> Vec<Session> {
    let (count, share) = (random.random_range(0..40), random.random_range(0.0..=1.0));
    let mut numbers: Vec<u32> = (0..count).map(|_| random.random_range(0..200)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let session = |number| {
        let asked = Timestamp::from_unix_seconds(NOW - random.random_range(0..60));
        let given = (asked + Ttl::seconds(random.random_range(0..4))).min(Timestamp::from_unix_seconds(NOW));
        let session = Session::between(slot(number), asked, given, given + Ttl::hours(1), SKEW);
        Session { revoked: random.random_bool(share), ..session }
    };
    numbers.into_iter().map(session).collect()
}

fn is_denied(document: &Document, slot: Option<Slot>, issued: i64) -> bool {
    let allow = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
    let allow = Document::parse(allow, Kind::Permissions).unwrap();
    let context = Context::default()
        .with("aws:TokenIssueTime", jiff::Timestamp::from_second(issued).unwrap().to_string())
        .with_some(&format!("aws:PrincipalTag/{SLOT_TAG}"), slot.map(|slot| slot.to_string()));
    let layers = Layers { identity: vec![&allow, document], ..Layers::default() };
    let request = Request { action: "s3:GetObject", resource: "arn:aws:s3:::b/k", context: &context };
    match evaluate(&layers, &request).unwrap() {
        Decision::Denied(Layer::Identity) => true,
        Decision::Allowed => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_brokers_document_denies_the_revoked_and_the_untagged_and_spares_the_rest() {
    let (mut revoked, mut spared) = (0, 0);
    for seed in 0..1_000 {
        let random = &mut StdRng::seed_from_u64(seed);
        let sessions = sessions(random);
        let text = State::at(Timestamp::from_unix_seconds(NOW), SKEW, sessions.clone()).document().text();
        let document =
            Document::parse(&text, Kind::Permissions).unwrap_or_else(|error| panic!("{error}: {text}"));
        for session in &sessions {
            let issued = random.random_range(session.earliest..=session.latest);
            let denied = is_denied(&document, Some(session.slot), issued);
            assert_eq!(denied, session.revoked, "seed {seed}: {session:?} issued at {issued}: {text}");
            if denied { revoked += 1 } else { spared += 1 }
        }
        assert!(is_denied(&document, None, NOW), "seed {seed}: without a slot nobody could end it: {text}");
        // Asked for after the document was made: its slot is nobody else's.
        assert!(!is_denied(&document, Some(slot(4_000)), NOW), "seed {seed}: {text}");
    }
    assert!(revoked > 5_000 && spared > 5_000, "{revoked} {spared}");
}
