//! Who gets a session, and what it may do.

use aws_sdk_sts::error::ProvideErrorMetadata as _;
use serde_json::{Value, json};

use crate::world::{READS_7, ROLE_ARN, World, claims, new_key, now, sign};

#[tokio::test]
async fn a_session_may_do_what_its_role_and_its_own_policy_both_allow() {
    let world = World::new();
    let keys = world.assume(&claims(), READS_7).await;
    let who = world.sts(Some(&keys)).get_caller_identity().send().await.unwrap();
    assert_eq!(who.arn(), Some("arn:aws:sts::111122223333:assumed-role/s3-train-read/lease-1"));

    let caller = world.caller(&keys);
    let read = caller.s3("GET", "/corpus-7/a").await;
    assert_eq!((read.status, read.body.as_str()), (200, "text of corpus-7/a"));
    let listed = caller.s3("GET", "?list-type=2&prefix=corpus-7%2F").await;
    assert!(listed.status == 200 && listed.body.contains("<Key>corpus-7/a</Key>"), "{listed:?}");
    for (method, path, why) in [
        ("GET", "/corpus-8/a", "because no session policy allows the s3:GetObject action"),
        ("GET", "?list-type=2", "because no session policy allows the s3:ListBucket action"),
        ("PUT", "/corpus-7/a", "because no identity-based policy allows the s3:PutObject action"),
    ] {
        let refused = caller.s3(method, path).await;
        assert!(refused.status == 403 && refused.body.contains(why), "{method} {path}: {refused:?}");
    }
    assert_eq!(world.cloud.object("corpora", "corpus-7/a").as_deref(), Some("text of corpus-7/a".as_bytes()));
}

#[tokio::test]
async fn a_session_ends_when_it_runs_out() {
    let world = World::new();
    // Half its life behind the test's clock and half of it before, so that S3 takes the moment of each request.
    world.cloud.set(|settings| settings.clock_offset_ms = -450_000);
    let caller = world.caller(&world.assume(&claims(), READS_7).await);
    assert!(caller.reads().await);
    world.cloud.set(|settings| settings.clock_offset_ms = 440_000);
    assert!(caller.reads().await);
    world.cloud.set(|settings| settings.clock_offset_ms = 451_000);
    let over = caller.s3("GET", "/corpus-7/a").await;
    assert_eq!((over.status, over.code()), (400, "ExpiredToken"));
}

#[tokio::test]
async fn a_token_that_is_not_just_so_is_refused_with_awss_own_code() {
    let world = World::new();
    let with = |change: fn(&mut Value)| {
        let mut changed = claims();
        change(&mut changed);
        world.sign(&changed)
    };
    let stranger = sign(&new_key(), &claims());
    for (what, token, code) in [
        ("key", stranger, "InvalidIdentityToken"),
        ("shape", "a.b.c".to_owned(), "InvalidIdentityToken"),
        ("issuer", with(|claims| claims["iss"] = json!("https://other.example")), "InvalidIdentityToken"),
        ("audience", with(|claims| claims["aud"] = json!("elsewhere")), "InvalidIdentityToken"),
        ("time", with(|claims| claims["exp"] = json!(now() - 1)), "ExpiredTokenException"),
        ("subject", with(|claims| claims["sub"] = json!("spiffe://example.org/inference/x")), "AccessDenied"),
        (
            "role",
            with(|claims| claims["https://aws.amazon.com/roles"] = json!(["arn:aws:iam::1:role/x"])),
            "AccessDenied",
        ),
        ("no role", with(|claims| claims["https://aws.amazon.com/roles"] = Value::Null), "AccessDenied"),
        (
            "no lease",
            with(|claims| claims["https://aws.amazon.com/source_identity"] = Value::Null),
            "AccessDenied",
        ),
        ("no tags", with(|claims| claims["https://aws.amazon.com/tags"] = Value::Null), "AccessDenied"),
        (
            "scope",
            with(|claims| {
                claims["https://aws.amazon.com/tags"]["principal_tags"]["dayfly-scope"] = json!(["x"])
            }),
            "AccessDenied",
        ),
        (
            "two values",
            with(|claims| {
                claims["https://aws.amazon.com/tags"]["principal_tags"]["dayfly-slot"] = json!(["a", "b"])
            }),
            "InvalidIdentityToken",
        ),
    ] {
        assert_eq!(refused(&world, &token, ROLE_ARN, 900, READS_7).await, code, "{what}");
    }
    let good = world.sign(&claims());
    let long = format!("{READS_7}{}", " ".repeat(2_048));
    let deny = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;
    for (what, role, seconds, policy, code) in [
        ("no such role", "arn:aws:iam::111122223333:role/dayfly/other", 900, READS_7, "AccessDenied"),
        ("short", ROLE_ARN, 899, READS_7, "ValidationError"),
        ("long", ROLE_ARN, 3_601, READS_7, "ValidationError"),
        ("policy", ROLE_ARN, 900, r#"{"Version":"2012-10-17"}"#, "MalformedPolicyDocument"),
        ("long policy", ROLE_ARN, 900, long.as_str(), "ValidationError"),
    ] {
        assert_eq!(refused(&world, &good, role, seconds, policy).await, code, "{what}");
    }
    world.cloud.set(|settings| settings.packed_limit = 100);
    assert_eq!(refused(&world, &good, ROLE_ARN, 900, READS_7).await, "PackedPolicyTooLarge");
    world.cloud.set(|settings| settings.packed_limit = 4_096);
    world.cloud.set(|settings| settings.is_region_disabled = true);
    assert_eq!(refused(&world, &good, ROLE_ARN, 900, deny).await, "RegionDisabledException");
    world.cloud.set(|settings| settings.is_region_disabled = false);
    // The same but for what differs above.
    world.assume(&claims(), deny).await;
}

async fn refused(world: &World, token: &str, role: &str, seconds: i32, policy: &str) -> String {
    let call = world.sts(None).assume_role_with_web_identity().role_arn(role).role_session_name("lease-1");
    let call = call.web_identity_token(token).policy(policy).duration_seconds(seconds);
    match call.send().await {
        Ok(_) => "taken".to_owned(),
        Err(error) => error.code().unwrap_or("no code").to_owned(),
    }
}
