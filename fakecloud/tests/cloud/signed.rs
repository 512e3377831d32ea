//! Whose request it is, and what is never passed over.

use dayfly_fakecloud::{Keys, SessionAsk};

use crate::client::Caller;
use crate::world::{ROLE, World};

#[tokio::test]
async fn only_the_sessions_own_secret_and_token_sign_for_it() {
    let world = World::new();
    let good = world.revoker();
    let with = |change: fn(&mut Caller)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let name = [("RoleName", ROLE)];
    assert_eq!(good.iam("GetRole", &name).await.status, 200);
    for (what, caller, iam, s3) in [
        (
            "secret",
            with(|caller| caller.keys.secret_access_key.push('x')),
            "SignatureDoesNotMatch",
            "SignatureDoesNotMatch",
        ),
        ("token", with(|caller| caller.keys.session_token.push('x')), "InvalidClientTokenId", "InvalidToken"),
        (
            "key",
            with(|caller| caller.keys.access_key_id.push('X')),
            "InvalidClientTokenId",
            "InvalidAccessKeyId",
        ),
        (
            "region",
            with(|caller| caller.region = "eu-west-1".into()),
            "SignatureDoesNotMatch",
            "AccessDenied",
        ),
    ] {
        assert_eq!(caller.iam("GetRole", &name).await.code(), iam, "{what}");
        assert_eq!(caller.s3("GET", "/corpus-7/a").await.code(), s3, "{what}");
    }
    world.cloud.set(|settings| settings.clock_offset_ms = 301_000);
    assert_eq!(
        good.iam("GetRole", &name).await.code(),
        "SignatureDoesNotMatch",
        "an old request is no request"
    );
}

#[tokio::test]
async fn what_the_fake_does_not_know_is_refused_and_kept() {
    let world = World::new();
    let revoker = world.revoker();
    let unknown = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}}]}"#;
    let said = revoker.put_policy(ROLE, unknown).await;
    assert_eq!((said.status, said.code()), (501, "FakeCloudDoesNotKnow"));
    assert!(world.cloud.role_policy(ROLE, "dayfly-revoked").is_none());
    let said = revoker.iam("GetRole", &[("RoleName", ROLE), ("Marker", "x")]).await;
    assert_eq!(said.code(), "FakeCloudDoesNotKnow");
    let complaints = world.cloud.complaints();
    assert!(complaints.len() == 2 && complaints[0].contains("aws:PrincipalOrgID"), "{complaints:?}");
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || drop(world)));
    assert!(dropped.is_err(), "a test that asked so must not succeed");
}

#[tokio::test]
async fn thousands_are_asked_about_without_a_request() {
    use dayfly_fakecloud::policy::{Decision, Layer};
    let world = World::new();
    let ask = |slot: usize| SessionAsk {
        role: ROLE.into(),
        name: format!("lease-{slot}"),
        tags: [("dayfly-slot".to_owned(), format!("{slot:04}"))].into(),
        seconds: 900,
        ..SessionAsk::default()
    };
    let sessions: Vec<Keys> = (0..2_000).map(|slot| world.cloud.session(&ask(slot))).collect();
    let document = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*","Condition":{"StringLike":{"aws:PrincipalTag/dayfly-slot":"1*"}}}]}"#;
    world.cloud.put_role_policy(ROLE, "dayfly-revoked", Some(document)).unwrap();
    for (slot, keys) in sessions.iter().enumerate() {
        let seen =
            world.cloud.decision(&keys.access_key_id, "us-east-1", "s3:GetObject", "arn:aws:s3:::corpora/k");
        let expected = if slot >= 1_000 { Decision::Denied(Layer::Identity) } else { Decision::Allowed };
        assert_eq!(seen, Some(expected), "{slot}");
    }
    world.cloud.set(|settings| settings.clock_offset_ms = 901_000);
    let key = &sessions[0].access_key_id;
    assert_eq!(world.cloud.decision(key, "us-east-1", "s3:GetObject", "arn:aws:s3:::corpora/k"), None);
}
