//! What a revoker's document does to sessions that were given before, and what the revoker cannot do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::world::{ROLE, World, now};

fn deny(condition: Value) -> String {
    let statement = json!({"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": condition});
    json!({"Version": "2012-10-17", "Statement": [statement]}).to_string()
}

fn iso(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}

#[tokio::test]
async fn each_form_of_the_document_takes_the_sessions_it_names_and_spares_the_others() {
    let world = World::new();
    let (dead, live, untagged) = (world.in_slot("aB3"), world.in_slot("xY9"), world.in_slot(""));
    let revoker = world.revoker();
    let slot = "aws:PrincipalTag/dayfly-slot";
    for (document, seen) in [
        (deny(json!({"StringLike": {slot: ["aB3", "q*"]}})), [false, true, true]),
        (deny(json!({"StringLike": {slot: "a*"}})), [false, true, true]),
        (
            deny(
                json!({"StringNotLike": {slot: ["xY9"]}, "DateLessThan": {"aws:TokenIssueTime": iso(now() + 30)}}),
            ),
            [false, true, false],
        ),
        (
            deny(
                json!({"StringNotLike": {slot: ["xY9"]}, "DateLessThan": {"aws:TokenIssueTime": iso(now() - 30)}}),
            ),
            [true, true, true],
        ),
        (deny(json!({"DateLessThan": {"aws:TokenIssueTime": iso(now() + 30)}})), [false, false, false]),
        (deny(json!({"Null": {slot: "false"}})), [false, false, false]),
        (deny(json!({"StringEquals": {slot: "none of them"}})), [true, true, true]),
    ] {
        assert_eq!(revoker.put_policy(ROLE, &document).await.status, 200);
        let found = [dead.reads().await, live.reads().await, untagged.reads().await];
        assert_eq!(found, seen, "{document}");
    }
    // What needs no permission proves nothing; what does, does.
    revoker.put_policy(ROLE, &deny(json!({"StringLike": {slot: "a*"}}))).await;
    let sts = world.sts(Some(&dead.keys));
    assert!(sts.get_caller_identity().send().await.is_ok());
    let listed = dead.s3_root().await;
    assert!(
        listed.status == 403 && listed.body.contains("explicit deny in an identity-based policy"),
        "{listed:?}"
    );
    let canary = sts.get_access_key_info().access_key_id(&dead.keys.access_key_id).send().await.unwrap_err();
    assert!(
        format!("{canary:?}").contains("with an explicit deny in an identity-based policy"),
        "{canary:?}"
    );
}

#[tokio::test]
async fn a_change_is_felt_after_a_while_and_later_elsewhere() {
    let world = World::new();
    world.cloud.propagation(Duration::from_millis(300));
    world.cloud.propagation_to("eu-west-1", Duration::from_millis(900));
    let near = world.in_slot("aB3");
    let far = crate::client::Caller { region: "eu-west-1".into(), ..near.clone() };
    let from = Instant::now();
    let document = deny(json!({"StringLike": {"aws:PrincipalTag/dayfly-slot": "aB3"}}));
    world.revoker().put_policy(ROLE, &document).await;
    assert_eq!(world.cloud.role_policy(ROLE, "dayfly-revoked").as_deref(), Some(document.as_str()));
    let mut seen = Vec::new();
    for caller in [&near, &far] {
        while caller.reads().await {
            assert!(from.elapsed() < Duration::from_secs(10), "the change never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        seen.push(from.elapsed());
    }
    assert!(seen[0] >= Duration::from_millis(300) && seen[1] >= Duration::from_millis(900), "{seen:?}");
}

#[tokio::test]
async fn what_the_revoker_writes_can_grant_nothing_and_it_can_do_nothing_else() {
    let world = World::new();
    let (task, revoker) = (world.in_slot("aB3"), world.revoker());
    let hostile = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    assert_eq!(revoker.put_policy(ROLE, hostile).await.status, 200);
    for (method, path) in [("PUT", "/corpus-7/a"), ("DELETE", "/corpus-7/a")] {
        let refused = task.s3(method, path).await;
        assert!(refused.body.contains("because no permissions boundary allows"), "{refused:?}");
    }
    assert_eq!(task.iam("GetRole", &[("RoleName", ROLE)]).await.code(), "AccessDenied");

    assert_eq!(revoker.put_policy("revoker", hostile).await.code(), "AccessDenied", "not its own role");
    let of_role =
        [("RoleName", ROLE), ("PolicyName", "dayfly-revoked"), ("PolicyArn", "arn:aws:iam::aws:policy/X")];
    for action in [
        "DeleteRolePolicy",
        "AttachRolePolicy",
        "UpdateAssumeRolePolicy",
        "DeleteRolePermissionsBoundary",
        "CreateRole",
    ] {
        let refused = revoker.iam(action, &of_role).await;
        assert_eq!((refused.status, refused.code()), (403, "AccessDenied"), "{action}");
    }
}

#[tokio::test]
async fn a_role_and_its_policies_are_shown_as_they_are() {
    let world = World::new();
    let revoker = world.revoker();
    let document = r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "arn:aws:s3:::é/*"}]}"#;
    assert_eq!(revoker.put_policy(ROLE, document).await.status, 200);
    let name = [("RoleName", ROLE), ("PolicyName", "dayfly-revoked")];
    let shown = revoker.iam("GetRolePolicy", &name).await;
    let encoded = shown.text("PolicyDocument").unwrap();
    assert!(encoded.starts_with("%7B%22Version%22%3A%20%22") && encoded.contains("%C3%A9"), "{encoded}");
    let listed = revoker.iam("ListRolePolicies", &name[..1]).await;
    assert!(listed.body.contains("<PolicyNames><member>dayfly-revoked</member></PolicyNames>"), "{listed:?}");
    let attached = revoker.iam("ListAttachedRolePolicies", &name[..1]).await;
    let managed = [("PolicyArn", attached.text("PolicyArn").unwrap())];
    assert_eq!(revoker.iam("GetPolicy", &managed).await.text("DefaultVersionId"), Some("v1"));
    let version = revoker.iam("GetPolicyVersion", &[managed[0], ("VersionId", "v1")]).await;
    assert!(version.text("Document").unwrap().contains("%22ReadCorpora%22"), "{version:?}");
    let role = revoker.iam("GetRole", &name[..1]).await;
    assert_eq!(role.text("Path"), Some("/dayfly/"));
    assert_eq!(role.text("PermissionsBoundaryArn"), Some("arn:aws:iam::111122223333:policy/s3-train-read"));

    let missing = [("RoleName", ROLE), ("PolicyName", "absent")];
    let none = revoker.iam("GetRolePolicy", &missing).await;
    assert_eq!((none.status, none.code()), (404, "NoSuchEntity"));
    assert_eq!(revoker.put_policy(ROLE, "{}").await.code(), "MalformedPolicyDocument");
}

#[tokio::test]
async fn all_inline_policies_together_have_10_240_characters_and_spaces_do_not_count() {
    let world = World::new();
    let revoker = world.revoker();
    let other = deny(json!({"Null": {"aws:PrincipalTag/dayfly-slot": "true"}}));
    world.cloud.put_role_policy(ROLE, "baseline", Some(&other)).unwrap();
    let taken = other.len();
    let of_length = |length: usize| {
        let empty = deny(json!({"StringLike": {"aws:PrincipalTag/dayfly-slot": ""}})).len();
        deny(json!({"StringLike": {"aws:PrincipalTag/dayfly-slot": "x".repeat(length - empty)}}))
    };
    let fits = of_length(10_240 - taken);
    assert_eq!(revoker.put_policy(ROLE, &format!("{fits}{}", "\n ".repeat(500))).await.status, 200);
    let over = revoker.put_policy(ROLE, &of_length(10_241 - taken)).await;
    assert_eq!((over.status, over.code()), (409, "LimitExceeded"));
    assert_eq!(world.cloud.role_policy(ROLE, "dayfly-revoked").unwrap().trim(), fits, "the old one stays");
}
