//! Each thing that can be wrong with a receipt, and that it is told as such.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::{collections::HashSet, time::UNIX_EPOCH};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;

const ISSUER: &str = "https://issuer.example/receipt";
const GUARD: &str = "spiffe://prod.test/guard/models";
const PEER: &str = "spiffe://prod.test/inference/server";
const DIGEST: &str = "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
const IAT: u64 = 1_800_000_000;
const WANTED: Wanted<'static> =
    Wanted { action: "load-model", name: "models/llama-3-8b", digest: Some(DIGEST) };

/// The issuer, as whoever holds its key.
struct Issuer {
    pair: EcdsaKeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Issuer { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid }
    }

    fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.kid,
            "x": number(&point[1..33]), "y": number(&point[33..]),
        })
    }

    fn jwks(&self) -> String {
        json!({"keys": [self.jwk()]}).to_string()
    }

    fn header(&self) -> Value {
        json!({"typ": TYP, "alg": "ES256", "kid": self.kid})
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_under(&self.header(), claims)
    }

    fn sign_under(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": PEER,
        "aud": GUARD,
        "iat": IAT,
        "exp": IAT + 60,
        "jti": "01JZX0DECISION",
        "txn": "01JZX0SESSION",
        "task": "01JZX0TASK",
        "cnf": {"spiffe_id": PEER},
        "act": {"sub": "spiffe://prod.test/inference/planner", "act": {"sub": "spiffe://prod.test/inference/root"}},
        "action": "load-model",
        "artifact": {"name": "models/llama-3-8b", "digest": DIGEST},
        "scope": "model-load",
    })
}

fn with(path: &str, value: Value) -> Value {
    let mut claims = claims();
    *claims.pointer_mut(path).unwrap() = value;
    claims
}

fn verifier(issuer: &Issuer) -> ReceiptVerifier {
    ReceiptVerifier::new(ISSUER, &issuer.jwks(), SpiffeId::new(GUARD).unwrap()).unwrap()
}

fn at(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(IAT.checked_add_signed(seconds).unwrap())
}

fn verify_at(issuer: &Issuer, receipt: &str, now: SystemTime) -> Result<Receipt, ReceiptFault> {
    verifier(issuer).verify(receipt, &SpiffeId::new(PEER).unwrap(), &WANTED, now)
}

fn verify(issuer: &Issuer, receipt: &str) -> Result<Receipt, ReceiptFault> {
    verify_at(issuer, receipt, at(1))
}

#[test]
fn a_good_receipt_says_who_may_do_what_in_which_task() {
    let issuer = Issuer::new("k1");
    let mut more = claims();
    more["new_claim"] = json!({"of": "a later release"});
    for claims in [claims(), more] {
        let receipt = verify(&issuer, &issuer.sign(&claims)).unwrap();
        let id = |text| SpiffeId::new(text).unwrap();
        assert_eq!(
            receipt,
            Receipt {
                decision_id: "01JZX0DECISION".into(),
                subject: id(PEER),
                chain: vec![
                    id("spiffe://prod.test/inference/planner"),
                    id("spiffe://prod.test/inference/root")
                ],
                action: "load-model".into(),
                name: "models/llama-3-8b".into(),
                digest: Some(DIGEST.into()),
                scope: "model-load".into(),
                task_id: "01JZX0TASK".into(),
                session_id: "01JZX0SESSION".into(),
                issued_at: at(0),
                expires_at: at(60),
                dev: false,
            }
        );
    }
}

#[test]
fn each_claim_is_checked_and_each_fault_has_its_own_words() {
    use ReceiptFault as F;
    let issuer = Issuer::new("k1");
    let mut told = HashSet::new();
    for (claims, fault) in [
        (with("/iss", json!("https://issuer.example/access")), F::Issuer),
        (with("/iss", json!("https://issuer.example/receipt/")), F::Issuer),
        (with("/aud", json!("spiffe://prod.test/guard/other")), F::Audience),
        (with("/aud", json!([GUARD])), F::Claims),
        (with("/aud", json!([GUARD, "spiffe://prod.test/guard/other"])), F::Claims),
        (with("/exp", json!(IAT + 61)), F::TooLongLived),
        (with("/exp", json!(u64::MAX)), F::TooLongLived),
        (with("/exp", json!(IAT)), F::Claims),
        (with("/exp", json!(IAT - 1)), F::Claims),
        (with("/exp", json!(-1)), F::Claims),
        (with("/exp", json!("1800000060")), F::Claims),
        (with("/exp", json!(1_800_000_060.5)), F::Claims),
        (with("/sub", json!("spiffe://prod.test/inference/other")), F::Claims),
        (with("/cnf/spiffe_id", json!("spiffe://prod.test/inference/other")), F::Claims),
        (with("/cnf", Value::Null), F::Claims),
        (with("/act/sub", json!("planner")), F::Claims),
        (with("/action", json!("call-tool")), F::Action),
        (with("/action", json!("Load-Model")), F::Action),
        (with("/artifact/name", json!("models/llama-3-70b")), F::Name),
        (with("/artifact/digest", json!(DIGEST.replace("2c", "2d"))), F::Digest),
        (with("/artifact/digest", json!(DIGEST.to_uppercase())), F::Digest),
        (with("/artifact/digest", Value::Null), F::Digest),
        (with("/artifact", json!("models/llama-3-8b")), F::Claims),
    ] {
        assert_eq!(verify(&issuer, &issuer.sign(&claims)), Err(fault), "{claims}");
        told.insert(fault);
    }
    for name in
        ["iss", "sub", "aud", "exp", "iat", "jti", "txn", "task", "cnf", "action", "artifact", "scope"]
    {
        let mut less = claims();
        less.as_object_mut().unwrap().remove(name);
        assert_eq!(verify(&issuer, &issuer.sign(&less)), Err(F::Claims), "without {name}");
    }
    told.extend([F::Malformed, F::TooLong, F::Kind, F::UnknownKey, F::Signature, F::NotYet, F::Expired]);
    told.extend([F::Peer, F::Replayed, F::Busy]);
    let words: HashSet<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(words.len(), told.len());
}

#[test]
fn what_the_guard_would_hand_out_counts_not_what_the_caller_says() {
    let issuer = Issuer::new("k1");
    let verifier = verifier(&issuer);
    let peer = SpiffeId::new(PEER).unwrap();
    let receipt = issuer.sign(&claims());
    let verify = |wanted: Wanted<'_>| verifier.verify(&receipt, &peer, &wanted, at(1)).map(|_| ());
    assert_eq!(verify(WANTED), Ok(()));
    assert_eq!(verify(Wanted { digest: None, ..WANTED }), Err(ReceiptFault::Digest));
    assert_eq!(verify(Wanted { name: "models/llama-3-8", ..WANTED }), Err(ReceiptFault::Name));
    let without = issuer.sign(&with("/artifact", json!({"name": "tools/search"})));
    let tool = Wanted { name: "tools/search", digest: None, ..WANTED };
    assert!(verifier.verify(&without, &peer, &tool, at(1)).is_ok());
    let other = SpiffeId::new("spiffe://prod.test/inference/other").unwrap();
    assert_eq!(verifier.verify(&receipt, &other, &WANTED, at(1)), Err(ReceiptFault::Peer));
}

#[test]
fn it_holds_from_its_issue_to_its_end_and_no_longer() {
    let issuer = Issuer::new("k1");
    let receipt = issuer.sign(&claims());
    let held = |seconds: i64| verify_at(&issuer, &receipt, at(seconds)).map(|_| ());
    assert_eq!(held(-6), Err(ReceiptFault::NotYet));
    assert_eq!((held(-5), held(0), held(59)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(held(60), Err(ReceiptFault::Expired), "no leeway at the end");
    let last = at(60) - Duration::from_millis(1);
    assert!(verify_at(&issuer, &receipt, last).is_ok());
}

#[test]
fn only_a_receipt_of_the_issuers_key_is_a_receipt() {
    use ReceiptFault as F;
    let issuer = Issuer::new("k1");
    let good = issuer.sign(&claims());
    let header = |name: &str, value: Value| {
        let mut header = issuer.header();
        header[name] = value;
        verify(&issuer, &issuer.sign_under(&header, &claims()))
    };
    // Signed by the right key and still another kind.
    for typ in ["JWT", "at+jwt", "DAYFLY-RECEIPT+JWT", "application/dayfly-receipt+jwt", ""] {
        assert_eq!(header("typ", json!(typ)), Err(F::Kind), "{typ}");
    }
    for alg in ["none", "HS256", "RS256", "ES384", "EdDSA", "es256", ""] {
        assert_eq!(header("alg", json!(alg)), Err(F::Kind), "{alg}");
    }
    for (name, value) in [("crit", json!(["exp"])), ("jwk", issuer.jwk()), ("b64", json!(false))] {
        assert_eq!(header(name, value), Err(F::Kind), "{name}");
    }
    assert_eq!(header("kid", json!("k2")), Err(F::UnknownKey));

    let stranger = Issuer::new("k1");
    assert_eq!(verify(&issuer, &stranger.sign(&claims())), Err(F::Signature));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let unsigned = URL_SAFE_NO_PAD.encode([0; 64]);
    for signature in ["", &unsigned, &signature[..40]] {
        assert!(verify(&issuer, &format!("{signed}.{signature}")).is_err());
    }
    for at in (0..good.len()).step_by(3) {
        let other = if good.as_bytes()[at] == b'A' { 'B' } else { 'A' };
        assert!(verify(&issuer, &format!("{}{other}{}", &good[..at], &good[at + 1..])).is_err(), "{at}");
    }
    for malformed in ["", ".", "..", "a.b.c", signed, &format!("{good}."), &format!("{good}=")] {
        assert!(matches!(verify(&issuer, malformed), Err(F::Malformed | F::Kind)), "{malformed:?}");
    }
    let long = issuer.sign(&with("/scope", json!("x".repeat(MAX_RECEIPT))));
    assert_eq!(verify(&issuer, &long), Err(F::TooLong));
    // Deep nesting is refused, not followed.
    let mut act = json!({"sub": PEER});
    for _ in 0..150 {
        act = json!({"sub": "spiffe://d/a", "act": act});
    }
    assert_eq!(verify(&issuer, &issuer.sign(&with("/act", act))), Err(F::Claims));
}

#[test]
fn keys_are_replaced_whole_or_not_at_all() {
    let (old, new) = (Issuer::new("k1"), Issuer::new("k2"));
    let verifier = verifier(&old);
    let peer = SpiffeId::new(PEER).unwrap();
    let taken = |issuer: &Issuer| verifier.verify(&issuer.sign(&claims()), &peer, &WANTED, at(1)).is_ok();
    assert!(taken(&old) && !taken(&new));
    verifier
        .update_jwks(&json!({"keys": [old.jwk(), {"kty": "RSA", "kid": "r"}, new.jwk()]}).to_string())
        .unwrap();
    assert!(taken(&old) && taken(&new));
    verifier.update_jwks(&new.jwks()).unwrap();
    assert!(!taken(&old) && taken(&new));

    let mut for_encryption = old.jwk();
    for_encryption["use"] = json!("enc");
    let twins = json!({"keys": [old.jwk(), Issuer::new("k1").jwk()]}).to_string();
    assert!(matches!(verifier.update_jwks(&twins), Err(JwksFault::SameName { .. })));
    for (jwks, whole) in [
        (json!({"keys": []}), true),
        (json!({"keys": [for_encryption]}), true),
        (json!({"keys": {}}), false),
        (json!([]), false),
    ] {
        match verifier.update_jwks(&jwks.to_string()) {
            Err(JwksFault::NoKey) => assert!(whole, "{jwks}"),
            Err(JwksFault::Malformed { .. }) => assert!(!whole, "{jwks}"),
            other => panic!("{jwks}: {other:?}"),
        }
    }
    assert!(matches!(verifier.update_jwks(&" ".repeat(70_000)), Err(JwksFault::TooLarge)));
    assert!(taken(&new), "a bad set changes nothing");
}

#[test]
fn a_receipt_is_accepted_once_and_forgotten_when_it_ran_out() {
    let issuer = Issuer::new("k1");
    let receipt = |jti: &str| verify(&issuer, &issuer.sign(&with("/jti", json!(jti)))).unwrap();
    let once = AcceptOnce::new(2);
    assert_eq!(once.accept(&receipt("a"), at(1)), Ok(()));
    // Signed anew over the same claims, it is still the same decision.
    assert_eq!(once.accept(&receipt("a"), at(2)), Err(ReceiptFault::Replayed));
    assert_eq!(once.accept(&receipt("b"), at(2)), Ok(()));
    assert_eq!(once.accept(&receipt("c"), at(59)), Err(ReceiptFault::Busy));
    assert_eq!(once.accept(&receipt("b"), at(59)), Err(ReceiptFault::Replayed));
    let mut later = receipt("c");
    later.expires_at = at(120);
    assert_eq!(once.accept(&later, at(61)), Ok(()), "the others have run out");
}
