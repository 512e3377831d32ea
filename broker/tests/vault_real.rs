//! The `vault` provider on a real Vault, set up from the files in `deploy/vault`.
//!
//! Needs the peers: `scripts/test` builds them and runs this with the feature `peers`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod world;

#[path = "vault_real/policies.rs"]
mod policies;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use dayfly_broker::providers::vault::{FIRST_TTL, JwtSource, VaultConfig, VaultProvider};
use dayfly_broker::providers::{
    BoxError, Credential, IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError,
};
use dayfly_devspiffe::Authority;
use dayfly_domain::document;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseState, RevokeCause};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::Template;
use dayfly_domain::time::{Timestamp, Ttl};
use harness::{Answers, StaticSite, TcpProxy, Vault, eventually};
use serde_json::{Value, json};

const BROKER: &str = "spiffe://example.org/dayfly/broker";
const WORKLOAD: &str = "spiffe://example.org/retrieval/ranker";

#[tokio::test]
async fn a_token_is_what_its_scope_says_and_nothing_more() {
    let world = World::new().await;
    let vault = world.provider().await;
    let scope = world.scope();
    assert_eq!(vault.check_scope(&scope), []);
    assert_eq!(vault.probe_scope(&scope).await, []);
    assert_eq!(vault.renewal(&scope), Renewal::InPlace);

    let (lease, issued) = world.issue(&vault, &scope).await;
    assert!(!format!("{issued:?}").contains("hvs."), "a token in {issued:?}");
    assert!(!issued.handle.0.to_string().contains("hvs."));
    let Credential::Vault { token, address } = &issued.credential else {
        panic!("another kind of credential")
    };
    assert_eq!(address, &world.vault.url());
    let (status, _) = world.vault.call(token.expose(), "GET", "secret/data/kb/a", None).await.unwrap();
    assert_eq!(status, 200);
    for (method, path) in [
        ("GET", "secret/data/other/a"),
        ("PUT", "secret/data/kb/a"),
        ("GET", "auth/token/lookup-self"),
        ("POST", "auth/token/create"),
        ("POST", "auth/token/renew-self"),
    ] {
        let (status, _) = world.vault.call(token.expose(), method, path, Some(json!({}))).await.unwrap();
        assert_eq!(status, 403, "{method} {path}");
    }
    let told = world.look_up(&issued).await.unwrap();
    assert_eq!(told["policies"], json!(["kb-read"]));
    assert_eq!(told["explicit_max_ttl"], 8 * 3600);
    assert_eq!(told["orphan"], true);
    assert_eq!(told["entity_id"], "");
    assert_eq!(told["type"], "service");
    assert_eq!(told["path"], "auth/token/create/dayfly-kb-read");
    assert_eq!(told["display_name"], format!("token-dayfly-{}", lease.id));
    assert_eq!(told["creation_ttl"], FIRST_TTL.as_seconds());
    let meta = json!({
        "lease": lease.id, "task": lease.task, "session": lease.session, "scope": "kb-read", "spiffe_id": WORKLOAD,
    });
    assert_eq!(told["meta"], meta);
    let ends = now().until(issued.expires_at);
    assert!(ends <= FIRST_TTL && ends > Ttl::seconds(20), "{ends}");
}

#[tokio::test]
async fn tags_of_policies_stand_in_the_tokens_metadata_and_never_in_the_place_of_ours() {
    let world = World::new().await;
    let vault = world.provider().await;
    let tagged =
        |key: &str| Narrowing { tags: [(key.to_owned(), "data".to_owned())].into(), ..Narrowing::default() };
    let lease = world.lease();
    let issued = issue_narrowed(&vault, &world.scope(), &lease, &tagged("team")).await.unwrap();
    let meta = &world.look_up(&issued).await.unwrap()["meta"];
    assert_eq!((&meta["team"], &meta["lease"]), (&json!("data"), &json!(lease.id)));

    let before = world.accessors().await;
    let statements = vec![json!({"Effect": "Deny", "Action": "*", "Resource": "*"})];
    let denials = Narrowing { deny_statements: statements, ..Narrowing::default() };
    for narrowing in [tagged("lease"), tagged("Spiffe_ID"), denials] {
        assert!(vault.can_narrow(&Value::Null, &narrowing).is_err(), "{narrowing:?}");
        let refused = issue_narrowed(&vault, &world.scope(), &world.lease(), &narrowing).await;
        assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{refused:?}");
    }
    assert_eq!(world.accessors().await, before, "nothing was made");
}

#[tokio::test]
async fn each_login_can_do_its_own_work_and_no_more() {
    let world = World::new().await;
    let vault = world.provider().await;
    let (_, issued) = world.issue(&vault, &world.scope()).await;
    let accessor = json!({"accessor": issued.handle.0["accessor"]});
    let lease = json!({"lease_id": "pki/issue/web/none", "sync": true});
    let (mint, revoke) = (world.log_in("dayfly-mint").await, world.log_in("dayfly-revoke").await);
    for (method, path, body, by_mint, by_revoke) in [
        ("POST", "auth/token/create/dayfly-kb-read", json!({"policies": ["kb-read"]}), 200, 403),
        ("POST", "auth/token/create", json!({}), 403, 403),
        ("POST", "auth/token/create/dayfly-other", json!({}), 403, 403),
        ("GET", "auth/token/roles/dayfly-kb-read", Value::Null, 200, 403),
        ("POST", "auth/token/roles/dayfly-kb-read", json!({"orphan": false}), 403, 403),
        ("POST", "auth/token/renew-accessor", accessor.clone(), 200, 403),
        ("POST", "auth/token/lookup-accessor", accessor.clone(), 403, 200),
        ("POST", "auth/token/revoke-accessor", accessor.clone(), 403, 204),
        ("POST", "sys/leases/revoke", lease.clone(), 403, 204),
        ("POST", "sys/leases/lookup", lease, 403, 400),
        ("POST", "auth/token/renew-self", json!({}), 403, 200),
        ("GET", "secret/data/kb/a", Value::Null, 403, 403),
        ("LIST", "auth/token/accessors", Value::Null, 403, 403),
        ("GET", "sys/policies/acl/dayfly-mint", Value::Null, 403, 403),
    ] {
        for (login, token, expected) in [("mint", &mint, by_mint), ("revoke", &revoke, by_revoke)] {
            let body = (!body.is_null()).then(|| body.clone());
            let (status, answer) = world.vault.call(token, method, path, body).await.unwrap();
            assert_eq!(status, expected, "{login}: {method} {path}: {answer}");
        }
    }
    let stranger = "spiffe://example.org/dayfly/broker2";
    let (status, _) = world.try_log_in("dayfly-revoke", stranger, "vault").await;
    assert_eq!(status, 400, "another subject");
    let (status, _) = world.try_log_in("dayfly-revoke", BROKER, "other").await;
    assert_eq!(status, 400, "another audience");
}

#[tokio::test]
async fn revoked_means_that_vault_said_so() {
    let world = World::new().await;
    let vault = world.provider().await;
    let (lease, issued) = world.issue(&vault, &world.scope()).await;
    assert_eq!(world.use_of(&issued).await, 200);

    let Revocation::Verified { evidence } =
        vault.revoke(&revoking(&lease, &issued.handle), now()).await.unwrap()
    else {
        panic!("not verified")
    };
    let expected = format!("auth/token/lookup-accessor at {}: invalid accessor, at 20", world.vault.url());
    assert!(evidence.starts_with(&expected), "{evidence}");
    assert!(evidence.ends_with("what was read of kind static stays with its reader"), "{evidence}");
    assert_eq!(world.use_of(&issued).await, 403);
    assert_eq!(world.look_up(&issued).await, None);

    // Revoking what is gone, or never was, is success.
    let again = vault.revoke(&revoking(&lease, &issued.handle), now()).await;
    assert!(matches!(again, Ok(Revocation::Verified { .. })), "{again:?}");
    let unknown = Handle(json!({"accessor": "nobodyKnowsThisAccessor"}));
    let unknown = vault.revoke(&revoking(&lease, &unknown), now()).await;
    assert!(matches!(unknown, Ok(Revocation::Verified { .. })), "{unknown:?}");
}

#[tokio::test]
async fn what_cannot_be_named_runs_out_and_another_cluster_proves_nothing() {
    let world = World::new().await;
    let vault = world.provider().await;
    let (lease, issued) = world.issue(&vault, &world.scope()).await;
    for handle in [None, Some(Handle(json!({"accessor": ""})))] {
        let unnamed = Lease { state: revoking_state(handle), ..lease.clone() };
        assert_eq!(vault.revoke(&unnamed, now()).await.unwrap(), Revocation::RunsOut);
    }
    let mut elsewhere = issued.handle.clone();
    elsewhere.0["cluster"] = json!("00000000-0000-0000-0000-000000000000");
    let error = vault.revoke(&revoking(&lease, &elsewhere), now()).await.unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
    assert_eq!(world.use_of(&issued).await, 200);
}

#[tokio::test]
async fn a_renewal_lengthens_the_same_token() {
    let world = World::new().await;
    let vault = world.provider().await;
    let scope = world.scope();
    let (lease, issued) = world.issue(&vault, &scope).await;
    let active = Lease { state: active(&issued), ..lease.clone() };

    let asked_at = now();
    let until = vault.extend(&active, &scope, Ttl::minutes(5), asked_at).await.unwrap();
    let ttl = world.look_up(&issued).await.unwrap()["ttl"].as_u64().unwrap();
    // Less the two seconds that a call may take.
    assert!((290..=298).contains(&ttl), "{ttl}");
    let recorded = asked_at + Ttl::minutes(5);
    assert!(until <= recorded && until > asked_at + Ttl::minutes(4), "{until} against {recorded}");
    assert_eq!(world.use_of(&issued).await, 200);

    vault.revoke(&revoking(&lease, &issued.handle), now()).await.unwrap();
    let refused = vault.extend(&active, &scope, Ttl::minutes(5), now()).await;
    assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{refused:?}");
}

#[tokio::test]
async fn an_open_token_role_is_refused_when_the_scope_is_applied() {
    let world = World::new().await;
    let vault = world.provider().await;
    let closed = file_json("token-role-dayfly-kb-read.json");
    for (change, path, word) in [
        (json!({"allowed_policies": []}), "policies", "the broker's own"),
        (json!({"allowed_policies": [], "disallowed_policies": ["root"]}), "policies", "only disallows"),
        (json!({"allowed_policies": ["kb-read", "kb-write"]}), "policies", "kb-write"),
        (json!({"allowed_policies_glob": ["kb-*"]}), "policies", "glob"),
        (json!({"token_no_default_policy": false}), "policies", "default policy"),
        (json!({"orphan": false}), "role", "orphan"),
        (json!({"token_type": "batch", "renewable": false, "token_explicit_max_ttl": 0}), "role", "service"),
        (json!({"token_type": "default-service"}), "role", "service"),
        (json!({"renewable": false}), "role", "renewable"),
        (json!({"token_period": "1h"}), "role", "period"),
        (json!({"token_explicit_max_ttl": 0}), "explicit_max_ttl", "no token_explicit_max_ttl"),
        (json!({"token_explicit_max_ttl": "1h"}), "explicit_max_ttl", "1h"),
    ] {
        world.set_role(&closed, &change).await;
        let faults = vault.probe_scope(&world.scope()).await;
        let told = faults.iter().any(|fault| fault.path == path && fault.problem.contains(word));
        assert!(told, "{change}: {faults:?}");
    }
    world.set_role(&closed, &json!({})).await;
    assert_eq!(vault.probe_scope(&world.scope()).await, []);
    world.vault.api("DELETE", "auth/token/roles/dayfly-kb-read", Value::Null).await.unwrap();
    let faults = vault.probe_scope(&world.scope()).await;
    assert!(faults[0].problem.contains("no such token role"), "{faults:?}");
    let faults = vault.probe_scope(&with_target(&world.scope(), "role", json!("dayfly-other"))).await;
    assert!(faults[0].problem.contains("may not read it"), "{faults:?}");
}

#[tokio::test]
async fn a_policy_that_hands_out_what_outlives_the_token_is_refused_unless_it_is_declared() {
    let world = World::new().await;
    let vault = world.provider().await;
    world.vault.api("POST", "sys/mounts/pg", json!({"type": "database"})).await.unwrap();
    let declared = Scope { leaves_behind: vec!["tokens".to_owned()], ..world.scope() };
    for (policy, word) in [
        (r#"path "auth/token/create" { capabilities = ["update"] }"#, "leaves_behind: [tokens]"),
        (r#"path "auth/+/login" { capabilities = ["create"] }"#, "auth/*/login"),
        (r#"path "sys/wrapping/*" { capabilities = ["update"] }"#, "wrapped_secrets"),
        (r#"path "pg/*" { capabilities = ["read"] }"#, "pg/static-creds/*"),
        (r#"{"path": {"identity/oidc/token/x": {"capabilities": ["read"]}}}"#, "identity_tokens"),
        ("path \"a\" { capabilities = <<EOF\n[]\nEOF\n}", "not understood"),
    ] {
        // Vault itself may refuse what it cannot read; then no scope can name it.
        if world.vault.write_policy("kb-read", policy).await.is_err() {
            assert_eq!(word, "not understood", "{policy}");
            continue;
        }
        let faults = vault.probe_scope(&world.scope()).await;
        let told = faults.iter().any(|fault| fault.path == "policies" && fault.problem.contains(word));
        assert!(told, "{policy}: {faults:?}");
        assert_eq!(vault.probe_scope(&declared).await, [], "{policy}");
    }
    let plain =
        r#"path "pg/creds/app" { capabilities = ["read"] } path "auth/*" { capabilities = ["deny"] }"#;
    world.vault.write_policy("kb-read", plain).await.unwrap();
    assert_eq!(vault.probe_scope(&world.scope()).await, []);
}

#[tokio::test]
async fn a_policy_that_the_broker_may_not_read_is_a_fault_that_names_the_right() {
    let world = World::new().await;
    let vault = world.provider().await;
    let other = with_target(&world.scope(), "policies", json!(["kb-write"]));
    let faults = vault.probe_scope(&other).await;
    let right = "path \"sys/policies/acl/kb-write\" { capabilities = [\"read\"] }";
    assert!(faults.iter().any(|fault| fault.problem.contains(right)), "{faults:?}");
    world.vault.api("DELETE", "sys/policies/acl/kb-read", Value::Null).await.unwrap();
    let faults = vault.probe_scope(&world.scope()).await;
    assert!(faults.iter().any(|fault| fault.problem.contains("there is no policy")), "{faults:?}");
}

#[tokio::test]
async fn a_role_that_is_opened_later_gives_no_more() {
    let world = World::new().await;
    let vault = world.provider().await;
    let closed = file_json("token-role-dayfly-kb-read.json");
    // Vault refuses: nothing exists.
    for change in [
        json!({"allowed_policies": []}),
        json!({"allowed_policies": ["kb-write"]}),
        json!({"token_type": "batch", "renewable": false, "token_explicit_max_ttl": 0}),
    ] {
        world.set_role(&closed, &change).await;
        let refused = world.try_issue(&vault, &world.scope()).await;
        assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{change}: {refused:?}");
    }
    // Vault gives, and not more than the scope says.
    for change in [
        json!({"allowed_policies": ["kb-read", "kb-write"]}),
        json!({"allowed_policies": [], "disallowed_policies": ["root"]}),
        json!({"token_no_default_policy": false}),
        json!({"token_explicit_max_ttl": 0}),
        json!({"token_explicit_max_ttl": "9h"}),
    ] {
        world.set_role(&closed, &change).await;
        let (_, issued) = world.issue(&vault, &world.scope()).await;
        let told = world.look_up(&issued).await.unwrap();
        assert_eq!(
            (&told["policies"], &told["explicit_max_ttl"]),
            (&json!(["kb-read"]), &json!(8 * 3600)),
            "{change}"
        );
    }
    // Vault gives something else: nobody gets it, and it is taken back.
    for (change, word) in [
        (json!({"orphan": false}), "orphan"),
        (json!({"renewable": false}), "renewed"),
        (json!({"token_period": "1h"}), "1h"),
    ] {
        world.set_role(&closed, &change).await;
        let (lease, given) = (world.lease(), world.try_issue(&vault, &world.scope()).await);
        let Err(IssueError::Misconfigured { what, handle, expires_at, .. }) = given else {
            panic!("{change}: {given:?}")
        };
        assert!(what.contains(word), "{what}");
        let accessor = handle.0["accessor"].as_str().unwrap();
        let told = world.look_up_accessor(accessor).await.unwrap();
        let ends = Ttl::seconds(told["ttl"].as_u64().unwrap());
        assert!(now() + ends <= expires_at + Ttl::seconds(1), "{ends} from now against {expires_at}");
        let revoked = vault.revoke(&revoking(&lease, &handle), now()).await;
        assert!(matches!(revoked, Ok(Revocation::Verified { .. })), "{revoked:?}");
        assert_eq!(world.look_up_accessor(accessor).await, None);
    }
}

#[tokio::test]
async fn a_lost_answer_leaves_a_token_that_nobody_holds_and_that_runs_out() {
    let world = World::new().await;
    let proxy = TcpProxy::before(world.vault.address()).await.unwrap();
    let vault = world.provider_at(&proxy.url()).await;
    let scope = Scope { ttl: ttl_limits(Ttl::seconds(4)), ..world.scope() };
    // Both logins stand.
    let (lease, issued) = world.issue(&vault, &scope).await;

    for lost in [Answers::LostFor("/v1/auth/token/create".to_owned()), Answers::Swallowed] {
        let before = world.accessors().await;
        proxy.set(lost);
        let started = Instant::now();
        let unresolved = world.try_issue(&vault, &scope).await;
        assert!(matches!(unresolved, Err(IssueError::Unresolved { .. })), "{unresolved:?}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        proxy.set(Answers::Pass);
        let new: Vec<String> = world.accessors().await.difference(&before).cloned().collect();
        assert_eq!(new.len(), 1, "vault made one token");
        let gone = || async { world.look_up_accessor(&new[0]).await.map_or(Ok(()), Err) };
        let residue = vault.residue(&scope, scope.ttl.default);
        eventually("the end of the lost token", residue.as_duration(), gone).await.unwrap();
    }

    proxy.set(Answers::LostFor("/v1/auth/token/revoke-accessor".to_owned()));
    let lost = vault.revoke(&revoking(&lease, &issued.handle), now()).await;
    assert!(matches!(lost, Err(RevokeError { .. })), "{lost:?}");
    proxy.set(Answers::Pass);
    let tried_again = vault.revoke(&revoking(&lease, &issued.handle), now()).await;
    assert!(matches!(tried_again, Ok(Revocation::Verified { .. })), "{tried_again:?}");
}

#[tokio::test]
async fn a_vault_that_is_down_or_sealed_was_never_asked() {
    let mut world = World::new().await;
    let vault = world.provider().await;
    let (lease, issued) = world.issue(&vault, &world.scope()).await;
    let lease = revoking(&lease, &issued.handle);

    world.vault.api("PUT", "sys/seal", Value::Null).await.unwrap();
    let sealed = world.try_issue(&vault, &world.scope()).await;
    let Err(IssueError::Unreach { what, .. }) = &sealed else { panic!("{sealed:?}") };
    assert!(what.contains("Vault is sealed"), "{what}");
    assert!(vault.revoke(&lease, now()).await.unwrap_err().to_string().contains("Vault is sealed"));
    let faults = vault.probe_scope(&world.scope()).await;
    assert!(faults.iter().any(|fault| fault.problem.contains("could not be read")), "{faults:?}");

    world.vault.kill().unwrap();
    // Until the closed connections are noticed, a request may go into one of them: then its outcome is open.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let down = world.try_issue(&vault, &world.scope()).await;
    assert!(matches!(down, Err(IssueError::Unreach { .. })), "{down:?}");
    assert!(vault.revoke(&lease, now()).await.is_err());

    // The same logins go on; the token was there all the time.
    world.vault.restart().await.unwrap();
    world.jwt.down.store(true, Ordering::SeqCst);
    assert!(matches!(vault.revoke(&lease, now()).await, Ok(Revocation::Verified { .. })));
    world.issue(&vault, &world.scope()).await;
}

#[tokio::test]
async fn an_identity_outage_stops_giving_but_not_taking_back() {
    let world = World::new().await;
    // Both would be over in four seconds, were they not kept.
    let short = |field: &str| json!({field: "4s", "token_max_ttl": 0, "token_ttl": if field == "token_ttl" { "4s" } else { "0" }});
    world.set_jwt_role("dayfly-mint", &short("token_ttl")).await;
    world.set_jwt_role("dayfly-revoke", &short("token_period")).await;
    let vault = world.provider().await;
    let faults = vault.probe_scope(&world.scope()).await;
    assert!(faults.iter().any(|fault| fault.problem.contains("token_period=24h")), "{faults:?}");
    let (lease, issued) = world.issue(&vault, &world.scope()).await;

    world.jwt.down.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(9)).await;
    let given = world.try_issue(&vault, &world.scope()).await;
    assert!(matches!(given, Err(IssueError::Unreach { .. })), "{given:?}");
    let taken = vault.revoke(&revoking(&lease, &issued.handle), now()).await;
    assert!(matches!(taken, Ok(Revocation::Verified { .. })), "{taken:?}");

    world.jwt.down.store(false, Ordering::SeqCst);
    let scope = world.scope();
    let given = || world.try_issue(&vault, &scope);
    eventually("a token after the outage", Duration::from_secs(10), given).await.unwrap();
}

#[tokio::test]
async fn a_login_that_vault_dropped_is_made_anew_within_the_call() {
    let world = World::new().await;
    let vault = world.provider().await;
    let (lease, issued) = world.issue(&vault, &world.scope()).await;
    world.vault.api("PUT", "sys/leases/revoke-prefix/auth/jwt/login", json!({"sync": true})).await.unwrap();
    assert_eq!(world.use_of(&issued).await, 200, "an orphan outlives the broker's login");
    world.issue(&vault, &world.scope()).await;
    let taken = vault.revoke(&revoking(&lease, &issued.handle), now()).await;
    assert!(matches!(taken, Ok(Revocation::Verified { .. })), "{taken:?}");
}

#[tokio::test]
async fn the_lease_of_a_dynamic_secret_ends_by_name() {
    let world = World::new().await;
    world.vault.enable_pki("web").await.unwrap();
    world
        .vault
        .write_policy("kb-read", "path \"pki/issue/web\" { capabilities = [\"update\"] }")
        .await
        .unwrap();
    let vault = world.provider().await;
    let (lease, issued) = world.issue(&vault, &world.scope()).await;
    let request = json!({"common_name": "a.example.org", "ttl": "10m"});
    let mut serials = Vec::new();
    let mut lease_ids = Vec::new();
    for _ in 0..3 {
        let (status, answer) = world
            .vault
            .call(token_of(&issued), "POST", "pki/issue/web", Some(request.clone()))
            .await
            .unwrap();
        assert_eq!(status, 200, "{answer}");
        serials.push(answer["data"]["serial_number"].as_str().unwrap().to_owned());
        lease_ids.push(answer["lease_id"].as_str().unwrap().to_owned());
    }
    let mut handle = issued.handle.clone();
    handle.0["lease_ids"] = json!(lease_ids);

    let revoked = vault.revoke(&revoking(&lease, &handle), now()).await.unwrap();
    let Revocation::Verified { evidence } = revoked else { panic!("{revoked:?}") };
    assert!(evidence.contains("sys/leases/lookup of 3: invalid lease"), "{evidence}");
    for lease_id in lease_ids {
        let asked = world.vault.api("POST", "sys/leases/lookup", json!({"lease_id": lease_id})).await;
        assert!(asked.unwrap_err().to_string().contains("invalid lease"));
    }
    for serial in serials {
        let certificate = world.vault.api("GET", &format!("pki/cert/{serial}"), Value::Null).await.unwrap();
        assert_ne!(certificate["data"]["revocation_time"], 0, "{certificate}");
    }
}

#[tokio::test]
async fn no_line_of_any_log_level_holds_a_token() {
    let lines = Lines::default();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(lines.clone()).finish();
    // For the whole process: what the other tests log meanwhile is looked through too.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let world = World::new().await;
    let vault = world.provider().await;
    let scope = world.scope();
    let (lease, issued) = world.issue(&vault, &scope).await;
    let active = Lease { state: active(&issued), ..lease.clone() };
    vault.extend(&active, &scope, Ttl::minutes(5), now()).await.unwrap();
    vault.revoke(&revoking(&lease, &issued.handle), now()).await.unwrap();
    world.set_role(&file_json("token-role-dayfly-kb-read.json"), &json!({"orphan": false})).await;
    let mut told = format!("{:?}", world.try_issue(&vault, &scope).await.unwrap_err());
    world.vault.api("PUT", "sys/leases/revoke-prefix/auth/jwt/login", json!({"sync": true})).await.unwrap();
    world.jwt.down.store(true, Ordering::SeqCst);
    told += &format!("{:?}", world.try_issue(&vault, &scope).await.unwrap_err());
    told += &lines.text();
    assert!(told.contains("logged in to vault") && told.contains("could not log in to vault"));
    for secret in ["hvs.", "eyJ", token_of(&issued)] {
        let shown = told.lines().find(|line| line.contains(secret));
        assert_eq!(shown, None, "{secret}");
    }
}

/// What was logged.
#[derive(Clone, Default)]
struct Lines(Arc<std::sync::Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// A Vault set up from `deploy/vault`, and the keys of the trust domain that it trusts.
struct World {
    vault: Vault,
    authority: Authority,
    jwt: Arc<Svids>,
    _keys: StaticSite,
}

/// The broker's JWT-SVIDs; can be down.
struct Svids {
    authority: Authority,
    down: AtomicBool,
}

/// What the provider owns of it.
struct Shared(Arc<Svids>);

#[async_trait]
impl JwtSource for Shared {
    async fn fetch(&self, audience: &str) -> Result<Secret, BoxError> {
        if self.0.down.load(Ordering::SeqCst) {
            return Err("the Workload API is down".into());
        }
        Ok(Secret::new(svid(&self.0.authority, BROKER, audience)))
    }
}

impl World {
    async fn new() -> Self {
        let vault = Vault::start().await.unwrap();
        let authority = Authority::in_memory("example.org").unwrap();
        let keys = StaticSite::start().await.unwrap();
        keys.put("/keys", authority.jwks());
        vault.enable_kv().await.unwrap();
        vault.api("POST", "secret/data/kb/a", json!({"data": {"b": "c"}})).await.unwrap();
        for policy in ["dayfly-mint", "dayfly-revoke", "kb-read"] {
            vault.write_policy(policy, &file(&format!("policy-{policy}.hcl"))).await.unwrap();
        }
        vault.api("POST", "sys/auth/jwt", json!({"type": "jwt"})).await.unwrap();
        let mut config = file_json("auth-jwt-config.json");
        config["jwks_url"] = json!(format!("{}/keys", keys.url()));
        vault.api("POST", "auth/jwt/config", config).await.unwrap();
        let jwt = Arc::new(Svids { authority: authority.clone(), down: AtomicBool::new(false) });
        let world = Self { vault, authority, jwt, _keys: keys };
        world.set_jwt_role("dayfly-mint", &json!({})).await;
        world.set_jwt_role("dayfly-revoke", &json!({})).await;
        world.set_role(&file_json("token-role-dayfly-kb-read.json"), &json!({})).await;
        world
    }

    async fn provider(&self) -> VaultProvider {
        self.provider_at(&self.vault.url()).await
    }

    async fn provider_at(&self, address: &str) -> VaultProvider {
        let mut config: toml::Value = toml::from_str(&file("broker.toml")).unwrap();
        let section = config["vault"].as_table_mut().unwrap();
        section.remove("ca_file").unwrap();
        section.insert("address".to_owned(), address.into());
        section.insert("timeout".to_owned(), "2s".into());
        let config: VaultConfig = section.clone().try_into().unwrap();
        VaultProvider::start(config, Shared(self.jwt.clone())).await.unwrap()
    }

    /// The scope of `deploy/vault/scope-kb-read.yaml`.
    fn scope(&self) -> Scope {
        let (documents, faults) = document::parse(&file("scope-kb-read.yaml"));
        assert_eq!(faults, []);
        let rules = document::compile(1, &[], &documents).unwrap();
        Scope::clone(rules.scope("kb-read").unwrap())
    }

    fn lease(&self) -> Lease {
        let task = TaskId::new(now(), u128::from(rand::random::<u64>()));
        Lease {
            id: LeaseId::new(now(), u128::from(rand::random::<u64>())),
            task,
            session: SessionId::from(task),
            spiffe_id: WORKLOAD.parse().unwrap(),
            scope: "kb-read".to_owned(),
            parameters: Parameters::new(),
            provider: "vault".to_owned(),
            promise: Promise {
                revocability: Revocability::Exact,
                worst_case_after_end: Ttl::ZERO,
                leaves_behind: Vec::new(),
            },
            narrowed: None,
            renews: None,
            opened_at: now(),
            state: revoking_state(None),
        }
    }

    async fn issue(&self, vault: &VaultProvider, scope: &Scope) -> (Lease, Issued) {
        let lease = self.lease();
        let issued = issue_for(vault, scope, &lease).await.unwrap();
        (lease, issued)
    }

    async fn try_issue(&self, vault: &VaultProvider, scope: &Scope) -> Result<Issued, IssueError> {
        issue_for(vault, scope, &self.lease()).await
    }

    /// The status of a request that the token is for.
    async fn use_of(&self, issued: &Issued) -> u16 {
        self.vault.call(token_of(issued), "GET", "secret/data/kb/a", None).await.unwrap().0
    }

    async fn look_up(&self, issued: &Issued) -> Option<Value> {
        self.look_up_accessor(issued.handle.0["accessor"].as_str().unwrap()).await
    }

    /// What Vault tells root of a token; `None` if there is none.
    async fn look_up_accessor(&self, accessor: &str) -> Option<Value> {
        let body = json!({"accessor": accessor});
        let root = self.vault.root_token();
        let (status, mut answer) =
            self.vault.call(root, "POST", "auth/token/lookup-accessor", Some(body)).await.unwrap();
        (status == 200).then(|| answer["data"].take())
    }

    async fn accessors(&self) -> BTreeSet<String> {
        let answer = self.vault.api("LIST", "auth/token/accessors", Value::Null).await.unwrap();
        let keys = answer["data"]["keys"].as_array().unwrap();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    async fn set_role(&self, role: &Value, change: &Value) {
        self.vault.api("DELETE", "auth/token/roles/dayfly-kb-read", Value::Null).await.unwrap();
        self.vault.write_token_role("dayfly-kb-read", changed(role, change)).await.unwrap();
    }

    async fn set_jwt_role(&self, name: &str, change: &Value) {
        let role = file_json(&format!("auth-jwt-role-{name}.json"));
        self.vault.api("POST", &format!("auth/jwt/role/{name}"), changed(&role, change)).await.unwrap();
    }

    async fn try_log_in(&self, role: &str, subject: &str, audience: &str) -> (u16, Value) {
        let jwt = svid(&self.authority, subject, audience);
        self.vault.call("", "POST", "auth/jwt/login", Some(json!({"role": role, "jwt": jwt}))).await.unwrap()
    }

    async fn log_in(&self, role: &str) -> String {
        let (status, answer) = self.try_log_in(role, BROKER, "vault").await;
        assert_eq!(status, 200, "{answer}");
        answer["auth"]["client_token"].as_str().unwrap().to_owned()
    }
}

async fn issue_for(vault: &VaultProvider, scope: &Scope, lease: &Lease) -> Result<Issued, IssueError> {
    issue_narrowed(vault, scope, lease, &Narrowing::default()).await
}

async fn issue_narrowed(
    vault: &VaultProvider,
    scope: &Scope,
    lease: &Lease,
    narrowing: &Narrowing,
) -> Result<Issued, IssueError> {
    let target = scope.target.render(&lease.parameters).unwrap();
    let subject: SpiffeId = WORKLOAD.parse().unwrap();
    let order = Order {
        lease: lease.id,
        task: lease.task,
        session: lease.session,
        subject: &subject,
        chain: &[],
        scope,
        target: &target,
        narrowing,
        ttl: scope.ttl.default,
        now: now(),
    };
    vault.issue(&order).await
}

fn token_of(issued: &Issued) -> &str {
    match &issued.credential {
        Credential::Vault { token, .. } => token.expose(),
        other => panic!("another kind of credential: {other:?}"),
    }
}

fn active(issued: &Issued) -> LeaseState {
    LeaseState::Active { expires_at: issued.expires_at, handle: issued.handle.clone() }
}

fn revoking(lease: &Lease, handle: &Handle) -> Lease {
    Lease { state: revoking_state(Some(handle.clone())), ..lease.clone() }
}

fn revoking_state(handle: Option<Handle>) -> LeaseState {
    LeaseState::Revoking {
        requested_at: now(),
        cause: RevokeCause::Holder,
        handle,
        applied_at: None,
        runs_out_at: None,
        bound: now() + Ttl::minutes(5),
    }
}

fn ttl_limits(ttl: Ttl) -> dayfly_domain::scope::TtlLimits {
    dayfly_domain::scope::TtlLimits { default: ttl, max: ttl }
}

fn with_target(scope: &Scope, key: &str, value: Value) -> Scope {
    let mut tree = scope.target.tree().clone();
    tree[key] = value;
    Scope { target: Template::parse(tree, &scope.parameters).unwrap(), ..scope.clone() }
}

fn svid(authority: &Authority, subject: &str, audience: &str) -> String {
    let id = dayfly_devspiffe::SpiffeId::new(subject).unwrap();
    authority.jwt_svid(&id, &[audience], Duration::from_secs(60)).unwrap().token().to_owned()
}

fn changed(role: &Value, change: &Value) -> Value {
    let mut role = role.clone();
    role.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    role
}

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/vault").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file_json(name: &str) -> Value {
    serde_json::from_str(&file(name)).unwrap()
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}
