//! What scopes may say, what tokens say, and which tokens are refused.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use aws_lc_rs::hmac;
use dayfly_domain::document;
use dayfly_domain::lease::LeaseState;
use dayfly_domain::lease::RevokeCause;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability};
use dayfly_domain::time::Ttl;
use serde_json::{Value, json};

use super::testkit::{NOW, SERVICE, TRAINER, World, assemble, id, introspected, offline, part, scope};
use super::*;

fn paths(world: &World, target: Value) -> Vec<String> {
    world.provider.check_scope(&scope(target)).into_iter().map(|fault| fault.path).collect()
}

#[test]
fn every_fault_of_a_scope_is_told_with_its_path() {
    let world = World::new();
    assert_eq!(world.provider.check_scope(&introspected()), []);
    assert_eq!(world.provider.check_scope(&offline()), []);
    let web = json!({"audience": "https://search.example", "checked": "introspect", "verifiers": [SERVICE]});
    assert_eq!(paths(&world, web), [""; 0]);

    let all_wrong = json!({
        "audience": "https://sts.amazonaws.com",
        "checked": "sometimes",
        "scope": ["a b", "say \"x\""],
        "claims": {"sub": "x", "fine": 1, "act": {}},
        "verifiers": ["search"],
        "iss": "https://evil.example",
    });
    let told = paths(&world, all_wrong);
    assert_eq!(told, ["audience", "iss", "checked", "scope", "claims.act", "claims.sub", "verifiers[0]"]);

    assert_eq!(paths(&world, json!({})), ["audience", "checked"]);
    assert_eq!(paths(&world, json!("x")), [""]);
    assert_eq!(paths(&world, json!({"audience": [SERVICE, TRAINER], "checked": "offline"})), ["audience"]);
    assert_eq!(
        paths(&world, json!({"audience": "https://a.example", "checked": "introspect"})),
        ["verifiers"]
    );
    let useless = json!({"audience": SERVICE, "checked": "offline", "verifiers": [TRAINER]});
    assert_eq!(paths(&world, useless), ["verifiers"]);
    let fat = json!({"audience": SERVICE, "checked": "offline", "claims": {"a": "x".repeat(3000)}});
    assert_eq!(paths(&world, fat), ["claims"]);
}

#[test]
fn who_and_for_whom_take_no_parameters() {
    let world = World::new();
    for (audience, key) in [("spiffe://example.org/tool/{dataset}", "audience"), ("{dataset}", "audience")] {
        let told = paths(&world, json!({"audience": audience, "checked": "offline"}));
        assert_eq!(told, [key], "{audience}");
    }
    for key in ["iss", "sub", "aud", "client_id", "act"] {
        let told = paths(&world, json!({"audience": SERVICE, "checked": "offline", key: "{dataset}"}));
        assert_eq!(told, [key]);
    }
}

#[test]
fn a_token_lives_five_minutes_at_most() {
    let world = World::new();
    let mut long = introspected();
    long.ttl.max = Ttl::minutes(6);
    let told = world.provider.check_scope(&long);
    assert_eq!(told.len(), 1);
    assert!(told[0].problem.contains("spec.ttl.max is 6m"), "{told:?}");
}

#[test]
fn where_nobody_can_ask_nothing_is_promised_exactly() {
    let world = World::with(TokenOptions { dev: false, introspection: false });
    let told = world.provider.check_scope(&introspected());
    assert_eq!(told.iter().map(|fault| fault.path.as_str()).collect::<Vec<_>>(), ["checked"]);
    let promise = |revocability, worst_case_after_end| Promise {
        revocability,
        worst_case_after_end,
        leaves_behind: Vec::new(),
    };
    assert_eq!(world.provider.promise(&introspected()), promise(Revocability::Exact, Ttl::ZERO));
    assert_eq!(world.provider.promise(&offline()), promise(Revocability::ExpiryOnly, Ttl::minutes(5)));
    assert_eq!(world.provider.promise(&scope(json!({}))).revocability, Revocability::ExpiryOnly);
}

#[test]
fn the_examples_of_the_documentation_are_faultless() {
    let page = include_str!("../../../../docs/providers/token.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let (documents, faults) = document::parse(&examples.join("---\n"));
    assert_eq!(faults, []);
    let rules = document::compile(1, &[], &documents).expect("no faults");
    let world = World::new();
    for scope in rules.scopes() {
        assert_eq!(world.provider.check_scope(scope), [], "{}", scope.name);
    }
    assert_eq!(rules.scopes().count(), 3);
}

#[tokio::test]
async fn a_token_says_who_for_whom_in_which_task_and_through_whom() {
    let world = World::with(TokenOptions { dev: true, introspection: true });
    let chain = [id("spiffe://example.org/inference/planner"), id(TRAINER)];
    let (issued, token) = world.issue_through(&introspected(), &chain).await;
    let header = part(&token, 0);
    assert_eq!((&header["typ"], &header["alg"]), (&json!("at+jwt"), &json!("ES256")));
    assert_eq!(header["kid"], world.jwks(Use::Access)["keys"][0]["kid"]);
    let lease =
        world.lease(&introspected(), LeaseState::Active { expires_at: NOW, handle: issued.handle.clone() });
    assert_eq!(
        part(&token, 1),
        json!({
            "iss": "https://issuer.example/access",
            "sub": TRAINER,
            "aud": SERVICE,
            "client_id": TRAINER,
            "exp": 1_800_000_120,
            "iat": 1_800_000_000,
            "jti": lease.id,
            "txn": lease.session,
            "task": lease.task,
            "cnf": {"spiffe_id": TRAINER},
            "act": {"sub": "spiffe://example.org/inference/planner"},
            "scope": "query read:corpus-7",
            "dayfly": {"collection": "papers/corpus-7", "limit": 100},
            "dev": true,
        })
    );
    assert_eq!(issued.handle, handle(lease.id, &token));
    assert!(!issued.handle.0.to_string().contains(token.rsplit('.').next().unwrap()));
    assert_eq!(issued.expires_at.unix_seconds(), 1_800_000_120);
    assert!(!format!("{issued:?}").contains(&token), "the token is not in Debug");

    let claims =
        verify_access(&token, &world.jwks(Use::Access), "https://issuer.example/access", SERVICE, NOW)
            .unwrap();
    assert_eq!(claims.jti, lease.id);
}

#[tokio::test]
async fn tags_of_policies_are_told_to_the_service_and_statements_it_cannot_enforce_are_refused() {
    let world = World::new();
    let tags = Narrowing { tags: [("team".to_owned(), "data".to_owned())].into(), ..Narrowing::default() };
    let (_, token) = world.issue_narrowed(&introspected(), &[id(TRAINER)], &tags).await.unwrap();
    let told = json!({"collection": "papers/corpus-7", "limit": 100, "tags": {"team": "data"}});
    assert_eq!(part(&token, 1)["dayfly"], told);
    let (_, token) = world.issue_narrowed(&offline(), &[id(TRAINER)], &tags).await.unwrap();
    assert_eq!(part(&token, 1)["dayfly"], json!({"tags": {"team": "data"}}));

    let statements = vec![json!({"Effect": "Deny", "Action": "*", "Resource": "*"})];
    let denials = Narrowing { deny_statements: statements, ..Narrowing::default() };
    assert!(world.provider.can_narrow(offline().target.tree(), &denials).is_err());
    let refused = world.issue_narrowed(&offline(), &[id(TRAINER)], &denials).await;
    assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{refused:?}");
    // A scope of before the name was taken.
    let own = json!({"audience": SERVICE, "checked": "introspect", "claims": {"tags": "mine"}});
    assert!(world.provider.can_narrow(&own, &tags).is_err());
    assert_eq!(world.provider.check_scope(&scope(own))[0].path, "claims.tags");
}

#[tokio::test]
async fn a_token_that_no_header_carries_is_not_given() {
    let world = World::new();
    let chain = vec![id(&format!("spiffe://example.org/{}", "a".repeat(1000))); 8];
    let (lease, task) = (dayfly_domain::id::LeaseId::new(NOW, 1), dayfly_domain::id::TaskId::new(NOW, 1));
    let (scope, subject) = (offline(), id(TRAINER));
    let narrowing = Narrowing::default();
    let order = |ttl, chain| Order {
        lease,
        task,
        session: task.into(),
        subject: &subject,
        chain,
        scope: &scope,
        target: scope.target.tree(),
        narrowing: &narrowing,
        ttl,
        now: NOW,
    };
    for refused in [order(Ttl::minutes(1), chain.as_slice()), order(Ttl::millis(600), &[])] {
        let refused = world.provider.issue(&refused).await;
        assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn taken_back_is_said_only_where_introspection_refuses_it() {
    let world = World::new();
    let handle = Handle(json!({"jti": "x"}));
    let revoking = LeaseState::Revoking {
        requested_at: NOW,
        cause: RevokeCause::Holder,
        handle: Some(handle.clone()),
        applied_at: None,
        runs_out_at: None,
        bound: NOW + Ttl::minutes(2),
    };
    let lease = world.lease(&introspected(), revoking.clone());
    let Revocation::Verified { evidence } = world.provider.revoke(&lease, NOW).await.unwrap() else {
        panic!("verified")
    };
    assert!(evidence.contains("inactive since 2027-01-15T08:00:00.250Z"), "{evidence}");

    let lease = world.lease(&offline(), revoking);
    assert_eq!(world.provider.revoke(&lease, NOW).await.unwrap(), Revocation::RunsOut);

    let active = LeaseState::Active { expires_at: NOW + Ttl::minutes(2), handle };
    assert!(world.provider.revoke(&world.lease(&introspected(), active), NOW).await.is_err());
}

/// Whether the access verifier takes a token, as of NOW.
fn verified(world: &World, token: &str) -> Result<AccessClaims, TokenFault> {
    verify_access(token, &world.jwks(Use::Access), world.issuers.url(Use::Access), SERVICE, NOW)
}

#[tokio::test]
async fn other_kinds_of_tokens_are_not_access_tokens() {
    let world = World::new();
    let (_, token) = world.issue(&offline()).await;
    let (header, claims) = (part(&token, 0), part(&token, 1));
    assert!(verified(&world, &token).is_ok());

    // A federation assertion, with the very same claims.
    let assertion = world.sign(Use::Federation, &claims).await;
    assert_eq!(verified(&world, &assertion), Err(TokenFault::Kind));
    // Nor does an access token pass at a verifier of federation assertions, which knows their keys and kind alone.
    let federation = world.jwks(Use::Federation);
    let issuer = world.issuers.url(Use::Federation);
    assert_eq!(verify_access(&token, &federation, issuer, SERVICE, NOW), Err(TokenFault::UnknownKey));

    // A receipt, with the very same claims, and one that calls itself an access token.
    let receipt = world.sign(Use::Receipt, &claims).await;
    assert_eq!(verified(&world, &receipt), Err(TokenFault::Kind));
    let receipts = world.jwks(Use::Receipt);
    let renamed = json!({"typ": "at+jwt", "alg": "ES256", "kid": receipts["keys"][0]["kid"]});
    let (_, signature) = receipt.rsplit_once('.').unwrap();
    let renamed = assemble(&renamed, &claims, &URL_SAFE_NO_PAD.decode(signature).unwrap());
    assert_eq!(verified(&world, &renamed), Err(TokenFault::UnknownKey));

    let signature = [0; 64];
    let with = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        assemble(&header, &claims, &signature)
    };
    for typ in
        ["JWT", "JOSE", "wit+jwt", "dayfly-receipt+jwt", "txntoken+jwt", "AT+JWT", "application/at+jwt", ""]
    {
        assert_eq!(verified(&world, &with("typ", json!(typ))), Err(TokenFault::Kind), "{typ}");
    }
    for alg in ["none", "None", "HS256", "RS256", "ES384", "EdDSA", ""] {
        assert_eq!(verified(&world, &with("alg", json!(alg))), Err(TokenFault::Kind), "{alg}");
    }
    for (name, value) in
        [("crit", json!(["exp"])), ("jwk", world.jwks(Use::Access)["keys"][0].clone()), ("b64", json!(false))]
    {
        assert_eq!(verified(&world, &with(name, value)), Err(TokenFault::Kind), "{name}");
    }
    assert_eq!(verified(&world, &with("kid", json!("another"))), Err(TokenFault::UnknownKey));
    assert_eq!(
        verified(&world, &with("kid", federation["keys"][0]["kid"].clone())),
        Err(TokenFault::UnknownKey)
    );
}

#[tokio::test]
async fn a_public_key_is_no_password_and_no_signature_is_no_signature() {
    let world = World::new();
    let (_, token) = world.issue(&offline()).await;
    let (header, claims) = (part(&token, 0), part(&token, 1));
    let (signed, _) = token.rsplit_once('.').unwrap();
    let public = world.jwks(Use::Access)["keys"][0].to_string();

    for alg in ["ES256", "HS256"] {
        let header = json!({"typ": "at+jwt", "alg": alg, "kid": header["kid"]});
        let unsigned = assemble(&header, &claims, b"");
        let (signed, _) = unsigned.rsplit_once('.').unwrap();
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), signed.as_bytes());
        for signature in [mac.as_ref(), b"", &[0; 64], &[0; 63]] {
            assert!(verified(&world, &assemble(&header, &claims, signature)).is_err(), "{alg}");
        }
    }
    for malformed in [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        signed,
        &format!("{token}."),
        &format!("{token}="),
        &format!(" {token}"),
    ] {
        let refused = verified(&world, malformed);
        assert!(
            matches!(refused, Err(TokenFault::Malformed | TokenFault::Kind)),
            "{malformed:?} {refused:?}"
        );
    }
    assert_eq!(verified(&world, &format!("{signed}.{}", "A".repeat(MAX_TOKEN))), Err(TokenFault::Malformed));
}

#[tokio::test]
async fn a_changed_token_is_refused_wherever_it_was_changed() {
    let world = World::new();
    let (_, token) = world.issue(&introspected()).await;
    for at in 0..token.len() {
        let other = if token.as_bytes()[at] == b'A' { 'B' } else { 'A' };
        let changed = format!("{}{other}{}", &token[..at], &token[at + 1..]);
        assert!(verified(&world, &changed).is_err(), "character {at}");
    }
    let stranger = World::new();
    let forged = stranger.sign(Use::Access, &part(&token, 1)).await;
    assert_eq!(verified(&world, &forged), Err(TokenFault::UnknownKey));
    let same_kid = assemble(&part(&token, 0), &part(&forged, 1), &[1; 64]);
    assert_eq!(verified(&world, &same_kid), Err(TokenFault::Signature));
}

#[tokio::test]
async fn time_audience_and_issuer_are_checked_behind_a_good_signature() {
    let world = World::new();
    let (issued, token) = world.issue(&offline()).await;
    let jwks = world.jwks(Use::Access);
    let issuer = world.issuers.url(Use::Access);
    let at = |now| verify_access(&token, &jwks, issuer, SERVICE, now).map(|_| ());
    assert_eq!(at(issued.expires_at - Ttl::millis(1)), Ok(()));
    assert_eq!(at(issued.expires_at), Err(TokenFault::Expired));
    assert_eq!(at(NOW - Ttl::minutes(2)), Err(TokenFault::NotYet));
    assert_eq!(verify_access(&token, &jwks, issuer, TRAINER, NOW), Err(TokenFault::Audience));

    let claims = part(&token, 1);
    let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
    for (name, value, fault) in [
        ("iss", json!("https://issuer.example/federation"), TokenFault::Issuer),
        ("aud", json!([SERVICE]), TokenFault::Claims),
        ("aud", json!([SERVICE, TRAINER]), TokenFault::Claims),
        ("exp", json!(iat + 301), TokenFault::Claims),
        ("exp", json!(i64::MAX), TokenFault::Claims),
        ("exp", json!(exp.to_string()), TokenFault::Claims),
        ("iat", json!(exp), TokenFault::Claims),
        ("jti", json!("not-an-id"), TokenFault::Claims),
        ("sub", json!("spiffe://example.org/tool/other"), TokenFault::Claims),
        ("cnf", json!({"spiffe_id": "spiffe://example.org/tool/other"}), TokenFault::Claims),
        ("cnf", Value::Null, TokenFault::Claims),
    ] {
        let mut changed = claims.clone();
        changed[name] = value.clone();
        let signed = world.sign(Use::Access, &changed).await;
        assert_eq!(verified(&world, &signed), Err(fault), "{name} {value}");
    }
}
