//! A holder that does as it is told: away, slow, or with keys of any age.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use dayfly_domain::key::{ANNOUNCED_FOR, Why, Withheld};
use dayfly_domain::time::Ttl;
use tokio::sync::Notify;

use super::*;

#[derive(Default)]
struct Fake {
    keys: Mutex<Vec<HeldKey>>,
    slow: AtomicBool,
    asked: Notify,
    go_on: Notify,
}

#[async_trait]
impl KeyHolder for Fake {
    async fn keys(&self) -> Result<Vec<HeldKey>, HolderError> {
        Ok(self.keys.lock().expect("no test panics with it").clone())
    }

    async fn sign(&self, _: &HeldKey, _: &[u8]) -> Result<Vec<u8>, HolderError> {
        if self.slow.load(Ordering::SeqCst) {
            self.asked.notify_one();
            self.go_on.notified().await;
        }
        Ok(b"signature".to_vec())
    }

    async fn make(&self, _: Use, _: Timestamp) -> Result<(), HolderError> {
        Ok(())
    }

    async fn destroy(&self, _: &HeldKey) -> Result<Option<String>, HolderError> {
        Ok(None)
    }

    fn makes_unasked(&self) -> bool {
        false
    }
}

fn now() -> Timestamp {
    Clock::default().now()
}

/// An access key, announced so long ago; the first of its use if that is not said.
fn key(name: &str, announced: Option<Ttl>) -> HeldKey {
    let members = json!({"crv": "P-256", "kty": "EC", "x": name, "y": name});
    let at = announced.map_or(Timestamp::from_unix_millis(0), |ago| now() - ago);
    HeldKey::new(Use::Access, members, at, announced.is_none(), name.to_owned())
}

fn withheld(key: &HeldKey, why: Why) -> WithheldKey {
    let withheld = Withheld { at: now(), why };
    let facts = KeyFacts {
        kid: key.kid.clone(),
        announced_at: key.announced_at,
        first: key.first,
        withheld: Some(withheld),
    };
    WithheldKey { purpose: "access".to_owned(), facts, withheld }
}

fn kids(ring: &Keyring) -> Vec<String> {
    let jwks = ring.jwks(Use::Access);
    let keys = jwks["keys"].as_array().expect("a list").iter();
    keys.map(|key| key["x"].as_str().expect("a name").to_owned()).collect()
}

async fn sign(ring: &Keyring) -> Result<String, SignError> {
    ring.sign(Use::Access, "at+jwt", &json!({"a": "b"})).await
}

#[tokio::test]
async fn a_row_takes_a_key_out_and_brings_none() {
    let (first, next) = (key("first", None), key("next", Some(ANNOUNCED_FOR)));
    let held = vec![first.clone(), next.clone()];
    let ring = Keyring::new(Arc::new(Fake::default()), held.clone(), &[]);
    assert_eq!(kids(&ring), ["first", "next"]);
    assert_eq!(sign(&ring).await.expect("signed").split('.').next(), first.header.strip_suffix('.'));

    // Whoever writes the table names keys of his own, of any age. He may stop ours by that, as he may by naming them.
    for stranger in
        [key("stranger", None), key("stranger", Some(ANNOUNCED_FOR)), key("stranger", Some(Ttl::ZERO))]
    {
        for why in Why::ALL {
            let ring = Keyring::new(Arc::new(Fake::default()), held.clone(), &[withheld(&stranger, why)]);
            let told = kids(&ring);
            assert!(told.iter().all(|kid| ["first", "next"].contains(&kid.as_str())), "{why:?} {told:?}");
            let signed = sign(&ring).await.expect("one of ours");
            assert!(held.iter().any(|key| signed.starts_with(&key.header)), "{why:?}");
            assert_eq!(ring.rows_of(Use::Access).len(), 3, "it is listed as gone");
        }
    }

    let out = withheld(&first, Why::Compromised);
    let ring = Keyring::new(Arc::new(Fake::default()), held.clone(), std::slice::from_ref(&out));
    assert_eq!(kids(&ring), ["next"]);
    assert_eq!(sign(&ring).await.expect("signed").split('.').next(), next.header.strip_suffix('.'));
    let both = [out, withheld(&next, Why::Compromised)];
    let ring = Keyring::new(Arc::new(Fake::default()), held, &both);
    assert!(kids(&ring).is_empty());
    assert!(matches!(sign(&ring).await, Err(SignError::NoKey { usable_from: None, .. })));
}

#[tokio::test]
async fn a_key_that_nobody_had_time_to_read_signs_nothing() {
    let new = key("new", Some(Ttl::minutes(1)));
    let ring = Keyring::new(Arc::new(Fake::default()), vec![new.clone()], &[]);
    assert_eq!(kids(&ring), ["new"], "it is published, so that they read it");
    let refused = sign(&ring).await;
    let from = new.announced_at + ANNOUNCED_FOR;
    assert!(
        matches!(refused, Err(SignError::NoKey { usable_from: Some(at), .. }) if at == from),
        "{refused:?}"
    );
}

#[tokio::test]
async fn what_was_taken_out_while_it_signed_gives_nothing() {
    let fake = Arc::new(Fake { slow: AtomicBool::new(true), ..Fake::default() });
    let (first, next) = (key("first", None), key("next", Some(ANNOUNCED_FOR)));
    let held = vec![first.clone(), next];
    let holder: Arc<dyn KeyHolder> = fake.clone();
    let ring = Arc::new(Keyring::new(holder, held.clone(), &[]));
    let signing = tokio::spawn({
        let ring = ring.clone();
        async move { sign(&ring).await }
    });
    fake.asked.notified().await;
    ring.keys.store(Arc::new(merge(held, &[withheld(&first, Why::Compromised)])));
    fake.go_on.notify_one();
    let signed = signing.await.expect("it ends");
    assert!(matches!(signed, Err(SignError::TakenOut { .. })), "{signed:?}");
}

#[tokio::test]
async fn a_key_signs_one_kind_of_token_only() {
    let ring = Keyring::new(Arc::new(Fake::default()), vec![key("first", None)], &[]);
    for typ in ["JWT", "dayfly-receipt+jwt", "AT+JWT", ""] {
        let signed = ring.sign(Use::Access, typ, &json!({})).await;
        assert!(matches!(signed, Err(SignError::Kind { .. })), "{typ}");
    }
    assert!(sign(&ring).await.is_ok());
}
