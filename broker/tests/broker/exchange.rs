//! The token endpoint for clients that act for themselves: who is heard, what is given, what is refused.

use std::time::Duration;

use dayfly_devspiffe::Authority;
use dayfly_devspiffe::wrong::{self, WrongJwt};
use dayfly_proto::v1;

use crate::exchange_site::{
    ACCESS_TOKEN, CORPORA, ISSUER, JWT, PLANNER, SEARCH, Site, TRAINER, asserted, claims, for_itself,
};
use crate::world::{ADMIN, NODE, scope};

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_a_jwt_svid_of_ones_own_are_exchanged_for_an_access_token() {
    let mut site = Site::new().await;
    let client = site.client(Some(TRAINER));
    let own = site.jwt(TRAINER);
    let answer = site.post(&client, &for_itself("corpus-list", &own)).await;
    let token = answer.token();
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["pragma"], "no-cache");
    assert_eq!(answer.body["issued_token_type"], ACCESS_TOKEN);
    assert_eq!(answer.body["token_type"], "Bearer");
    assert_eq!(answer.body["scope"], "corpus-list");
    let left = answer.body["expires_in"].as_u64().unwrap();
    assert!((110..=120).contains(&left), "{left}");
    let said = claims(&token);
    assert_eq!((said["sub"].as_str(), said["aud"].as_str()), (Some(TRAINER), Some(CORPORA)));
    assert!(said.get("act").is_none(), "it acts for itself: {said}");

    // It is a lease like any other: introspection knows it, and it ends with its task.
    assert_eq!(site.introspect(CORPORA, &token).await["active"], true);
    let task = site.tasks().await.pop().unwrap();
    assert_eq!((task.anchor.as_str(), task.state.as_str()), ("deadline", "open"));
    assert_eq!(task.task_id, said["task"].as_str().unwrap());
    let lasts = task.deadline.unwrap().seconds - task.opened_at.unwrap().seconds;
    assert_eq!(lasts, 120, "it lasts as long as what it holds");
    let admin = site.world.connect(ADMIN).await;
    let target = Some(v1::revoke_request::Target::TaskId(task.task_id));
    admin.admin().revoke(v1::RevokeRequest { target, wait_ms: 2_000, ..Default::default() }).await.unwrap();
    assert_eq!(site.introspect(CORPORA, &token).await, serde_json::json!({"active": false}));

    // And recorded as one: the task, then the credential, as an exchange.
    let decisions = site.records("decision").await;
    let exchanged: Vec<_> = decisions.iter().filter(|record| record["what"] == "token_exchange").collect();
    assert_eq!(exchanged.len(), 2, "{decisions:#?}");
    assert!(exchanged.iter().all(|record| record["event"] == "decision.allow" && record["via"] == "direct"));
    assert_eq!(exchanged[1]["lease_id"], said["jti"]);
    assert_eq!(exchanged[0]["request_id"], exchanged[1]["request_id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_proves_itself_by_its_jwt_svid_once() {
    let mut site = Site::new().await;
    let client = site.client(None);
    let assertion = site.jwt(TRAINER);
    // One JWT-SVID may be both: who the client is, and for whom it acts.
    let form = asserted(for_itself("corpus-list", &assertion), &assertion);
    let token = site.post(&client, &form).await.token();
    assert_eq!(site.introspect(CORPORA, &token).await["active"], true);

    let replayed = (401, "invalid_client", "CLIENT_ASSERTION_REPLAYED");
    let again = site.post(&client, &form).await;
    assert_eq!(again.refused(), replayed);
    assert!(again.headers.contains_key("www-authenticate"));
    // ECDSA is malleable: with r and n - s the signature is another one, and holds.
    let other = malleated(&assertion);
    assert_ne!(other, assertion);
    let form = asserted(for_itself("corpus-list", &assertion), &other);
    assert_eq!(site.post(&client, &form).await.refused(), replayed);
    // Also a broker that was restarted knows what was taken.
    site.world.restart().await;
    let form = asserted(for_itself("corpus-list", &assertion), &assertion);
    assert_eq!(site.post(&site.client(None), &form).await.refused(), replayed);

    // As a subject token beside a certificate it proves nothing more, so there it need not be new.
    let certified = site.client(Some(TRAINER));
    site.post(&certified, &for_itself("corpus-list", &assertion)).await.token();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_who_bring_an_assertion_at_once_one_is_heard() {
    let site = Site::new().await;
    let assertion = site.jwt(TRAINER);
    let form = asserted(for_itself("corpus-list", &assertion), &assertion);
    let (a, b) = (site.client(None), site.client(None));
    let (a, b) = tokio::join!(site.post(&a, &form), site.post(&b, &form));
    let mut statuses = [a.status, b.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_is_for_this_issuer_alone_and_fresh() {
    let mut site = Site::new().await;
    let client = site.client(None);
    let own = site.jwt(TRAINER);
    let prove = async |assertion: &str| {
        let answer = site.post(&client, &asserted(for_itself("corpus-list", &own), assertion)).await;
        let (status, error, reason) = answer.refused();
        (status, error.to_owned(), reason.to_owned())
    };
    let refused = |reason: &str| (401, "invalid_client".to_owned(), reason.to_owned());
    let invalid = refused("CLIENT_ASSERTION_INVALID");
    let at_token = format!("https://dayfly.example.org:{}/token", site.exchange.port());
    for audiences in [
        vec![ISSUER, "https://elsewhere.example"],
        vec!["https://elsewhere.example"],
        vec![at_token.as_str()],
        vec!["http://127.0.0.1:9/dayfly/federation"],
        vec!["spiffe://example.org/dayfly/broker"],
        vec![],
    ] {
        assert_eq!(prove(&site.jwt_of_age(TRAINER, 0, &audiences)).await, invalid, "{audiences:?}");
    }
    assert_eq!(prove(&site.jwt_of_age(TRAINER, 61, &[ISSUER])).await, refused("CLIENT_ASSERTION_STALE"));
    let trainer = dayfly_client::SpiffeId::new(TRAINER).unwrap();
    for way in WrongJwt::ALL {
        let assertion = wrong::jwt(&site.world.authority, &trainer, ISSUER, way).unwrap();
        let (status, error, reason) = prove(&assertion).await;
        assert_eq!((status, error.as_str()), (401, "invalid_client"), "{way:?}: {reason}");
    }
    assert_eq!(prove("not a token").await, invalid);
    // None of all that was taken, issued or recorded.
    let fresh = site.jwt_of_age(TRAINER, 50, &[ISSUER]);
    site.post(&client, &asserted(for_itself("corpus-list", &own), &fresh)).await.token();
    assert_eq!(site.tasks().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_client_is_is_said_in_one_voice() {
    let mut site = Site::new().await;
    let own = site.jwt(TRAINER);
    let differ = (401, "invalid_client", "CLIENTS_DIFFER");
    let certified = site.client(Some(SEARCH));
    let form = asserted(for_itself("corpus-list", &own), &own);
    assert_eq!(site.post(&certified, &form).await.refused(), differ, "another's assertion");
    let mut named = for_itself("corpus-list", &own);
    named.push(("client_id", SEARCH));
    assert_eq!(site.post(&site.client(Some(TRAINER)), &named).await.refused(), differ);
    // Its owner's assertion was not spent by somebody else's try.
    let mut named = form.clone();
    named.push(("client_id", TRAINER));
    site.post(&site.client(Some(TRAINER)), &named).await.token();

    let nobody = site.post(&site.client(None), &for_itself("corpus-list", &own)).await;
    assert_eq!(
        nobody.refused(),
        (401, "invalid_client", "CLIENT_UNPROVEN"),
        "a subject token proves no client"
    );
    // The subject is the client, and its token is for us.
    let invalid = (400, "invalid_request", "SUBJECT_TOKEN_INVALID");
    let client = site.client(Some(TRAINER));
    for subject in [
        site.jwt(SEARCH),
        site.jwt_of_age(TRAINER, 0, &["https://elsewhere.example"]),
        site.jwt_of_age(TRAINER, 0, &[ISSUER, "https://elsewhere.example"]),
        site.jwt_of_age(TRAINER, 301, &[ISSUER]),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(site.post(&client, &for_itself("corpus-list", &subject)).await.refused(), invalid);
    }
    let tasks = site.tasks().await;
    assert_eq!(tasks.len(), 1, "{tasks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_federated_identity_is_heard_only_where_its_trust_domain_is_accepted() {
    const PARTNER: &str = "spiffe://partner.test/train/a";
    let partner = Authority::in_memory("partner.test").unwrap();
    let assertion = || {
        let id = dayfly_client::SpiffeId::new(PARTNER).unwrap();
        partner.jwt_svid(&id, &[ISSUER], Duration::from_secs(300)).unwrap().token().to_owned()
    };
    let accepts = r#"
[[trust_domain]]
name = "partner.test"
stages = ["training"]
patterns = ["spiffe://partner.test/train/*"]
"#;
    for (sections, expected) in
        [("", (401, "CLIENT_ASSERTION_INVALID")), (accepts, (400, "SCOPE_NOT_GRANTED"))]
    {
        let site = Site::with(sections).await;
        site.world.federate(&partner);
        if !sections.is_empty() {
            let stage = "kind: Stage\nmetadata: {name: training}\nspec: {patterns: ['spiffe://example.org/train/**', \
                         'spiffe://partner.test/train/*']}";
            site.world.apply(stage).await;
        }
        let mut found = (0, String::new());
        // The broker learns of the bundle in a moment.
        for _ in 0..100 {
            let jwt = assertion();
            let answer =
                site.post(&site.client(None), &asserted(for_itself("corpus-read", &jwt), &jwt)).await;
            let (status, _, reason) = answer.refused();
            found = (status, reason.to_owned());
            if found.1 == expected.1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!((found.0, found.1.as_str()), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_binding_gives_directly_and_at_a_root_is_exchanged_for() {
    let mut site = Site::new().await;
    let ask = async |id: &str, scope: &str| {
        let own = site.jwt(id);
        let answer = site.post(&site.client(Some(id)), &for_itself(scope, &own)).await;
        let (status, error, reason) = answer.refused();
        assert_eq!(status, 400);
        format!("{error} {reason}")
    };
    assert_eq!(ask(SEARCH, "corpus-read").await, "invalid_scope PARAMETER_INVALID", "it wants a dataset");
    assert_eq!(ask(TRAINER, "nowhere").await, "invalid_scope SCOPE_NOT_GRANTED");
    assert_eq!(ask(TRAINER, "model-load").await, "invalid_target NOT_A_TOKEN_SCOPE");
    assert_eq!(
        ask("spiffe://example.org/nobody", "corpus-list").await,
        "unauthorized_client IDENTITY_UNKNOWN"
    );
    assert_eq!(ask(NODE, "corpus-list").await, "unauthorized_client STAGE_HOLDS_NO_SCOPES");

    let detailed = async |id: &str, parameters: &str| {
        let details =
            format!(r#"[{{"type":"dayfly_scope","scope":"corpus-read","parameters":{parameters}}}]"#);
        let own = site.jwt(id);
        let mut form = for_itself("", &own);
        form.push(("authorization_details", &details));
        site.post(&site.client(Some(id)), &form).await
    };
    let corpus_7 = r#"{"dataset":"corpus-7"}"#;
    for (id, parameters, expected) in [
        (SEARCH, corpus_7, "unauthorized_client ROOT_NOT_ALLOWED"),
        (PLANNER, corpus_7, "unauthorized_client VIA_NOT_ALLOWED"),
        (TRAINER, r#"{"dataset":"corpus-8"}"#, "invalid_scope SCOPE_NOT_GRANTED"),
        (TRAINER, r#"{"dataset":"../x"}"#, "invalid_authorization_details PARAMETER_INVALID"),
        (TRAINER, r#"{"dataset":"corpus-7","more":"x"}"#, "invalid_authorization_details PARAMETER_INVALID"),
        (TRAINER, r#"{"dataset":7}"#, "invalid_authorization_details AUTHORIZATION_DETAILS_INVALID"),
    ] {
        let answer = detailed(id, parameters).await;
        let (status, error, reason) = answer.refused();
        assert_eq!((status, format!("{error} {reason}").as_str()), (400, expected), "{id} {parameters}");
    }
    let given = detailed(TRAINER, corpus_7).await;
    assert_eq!(claims(&given.token())["scope"], "read/corpus-7");
    assert_eq!(given.body["authorization_details"][0]["parameters"]["dataset"], "corpus-7");

    // A scope that is given through the agent alone stays so.
    let agent = site.world.connect(NODE).await;
    let request = v1::OpenTaskRequest {
        subject_token: site.world.subject_token(PLANNER, NODE),
        ceiling: vec![scope("ask-search", &[])],
        anchor: Some(crate::world::anchor()),
        ..Default::default()
    };
    agent.credentials().open_task(request).await.expect("through the agent it may");
    let only_agent = "kind: Binding\nmetadata: {name: planner-asks}\nspec: {identities: \
                      ['spiffe://example.org/train/*'], scope: corpus-list, via: direct}";
    site.world.apply(only_agent).await;
    let own = site.jwt(PLANNER);
    let answer = site.post(&site.client(Some(PLANNER)), &for_itself("ask-search", &own)).await;
    assert_eq!(answer.refused(), (400, "unauthorized_client", "VIA_NOT_ALLOWED"));
    assert_eq!(site.tasks().await.len(), 2, "what is refused leaves no task behind");
    let denials = site.records("decision").await;
    let denied = denials.iter().filter(|record| record["event"] == "decision.deny");
    assert!(denied.clone().count() > 5 && denied.clone().all(|record| record["what"] == "token_exchange"));
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_that_are_none_are_refused_before_anything_is_looked_at() {
    let mut site = Site::new().await;
    let client = site.client(Some(TRAINER));
    let own = site.jwt(TRAINER);
    let right = for_itself("corpus-list", &own);
    let with = |more: &[(&'static str, &'static str)]| [right.as_slice(), more].concat();
    let form = (400, "invalid_request", "FORM_INVALID");
    assert_eq!(site.post(&client, &with(&[("scope", "corpus-list")])).await.refused(), form, "twice");
    assert_eq!(site.post(&client, &with(&[("x", "1"), ("x", "1")])).await.refused(), form, "unknown, twice");
    assert_eq!(site.post(&client, &right[1..]).await.refused(), form, "no grant");
    let unsupported = |reason| (400, "invalid_request", reason);
    let actor = with(&[("actor_token", "a.b.c"), ("actor_token_type", JWT)]);
    assert_eq!(site.post(&client, &actor).await.refused(), unsupported("ACTOR_TOKEN_UNSUPPORTED"));
    let other = with(&[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")]);
    assert_eq!(site.post(&client, &other).await.refused(), unsupported("TOKEN_TYPE_UNSUPPORTED"));
    let elsewhere = with(&[("audience", "spiffe://example.org/svc/other")]);
    assert_eq!(site.post(&client, &elsewhere).await.refused(), (400, "invalid_target", "AUDIENCE_MISMATCH"));
    // A little is enough: the answer comes before a longer body is written, and the connection is gone.
    let too_large = site.send(&client, format!("scope={}", "a".repeat(17 << 10))).await;
    assert_eq!(too_large.refused(), (413, "invalid_request", "FORM_INVALID"));
    let url = format!("https://{}:{}/token", crate::world::BROKER_HOST, site.exchange.port());
    let json = client.post(&url).header("content-type", "application/json").body("{}").send().await.unwrap();
    assert_eq!(json.status(), 415);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(client.post(url.replace("/token", "/x")).send().await.unwrap().status(), 404);
    let body = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange";
    let basic = client.post(&url).header("content-type", "application/x-www-form-urlencoded");
    let basic = basic.basic_auth("trainer", Some("secret")).body(body).send().await.unwrap();
    assert_eq!(basic.status(), 401, "a password is none of the ways");
    assert!(site.tasks().await.is_empty());
    let audience = with(&[("audience", CORPORA), ("requested_token_type", ACCESS_TOKEN)]);
    site.post(&client, &audience).await.token();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_exchanges_too_often_is_told_how_long_to_wait_and_others_are_served() {
    let mut site = Site::limited("requests_per_minute_per_identity = 2").await;
    let client = site.client(Some(TRAINER));
    let own = site.jwt(TRAINER);
    for _ in 0..2 {
        site.post(&client, &for_itself("corpus-list", &own)).await.token();
    }
    let before = site.records("decision").await.len();
    let answer = site.post(&client, &for_itself("corpus-list", &own)).await;
    assert_eq!(answer.refused(), (429, "temporarily_unavailable", "RATE_LIMITED"));
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().expect("whole seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(site.records("decision").await.len(), before, "it is held back before anything is recorded");
    assert_eq!(site.tasks().await.len(), 2);

    const OTHER: &str = "spiffe://example.org/train/b";
    let own = site.jwt(OTHER);
    site.post(&site.client(Some(OTHER)), &for_itself("corpus-list", &own)).await.token();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_as_many_tokens_as_it_may_gets_no_other_and_leaves_no_open_task() {
    let mut site = Site::limited("live_leases_per_identity = 1").await;
    let client = site.client(Some(TRAINER));
    let own = site.jwt(TRAINER);
    site.post(&client, &for_itself("corpus-list", &own)).await.token();
    let answer = site.post(&client, &for_itself("corpus-list", &own)).await;
    assert_eq!(answer.refused(), (429, "temporarily_unavailable", "TOO_MANY_LEASES"));
    assert!(answer.headers.contains_key("retry-after"));
    let states: Vec<String> = site.tasks().await.into_iter().map(|task| task.state).collect();
    assert_eq!(states.iter().filter(|state| *state == "open").count(), 1, "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_written_holds_a_token() {
    let mut site = Site::new().await;
    let assertion = site.jwt(TRAINER);
    let form = asserted(for_itself("corpus-list", &assertion), &assertion);
    let token = site.post(&site.client(None), &form).await.token();
    let mut written = Vec::new();
    for stream in ["decision", "lease", "admin"] {
        written.extend(site.records(stream).await.iter().map(ToString::to_string));
    }
    let state = std::fs::read_dir(site.world.folder.path().join("state")).unwrap();
    for file in state.flatten().filter(|file| file.file_type().unwrap().is_file()) {
        written.push(String::from_utf8_lossy(&std::fs::read(file.path()).unwrap()).into_owned());
    }
    for secret in [&assertion, &token] {
        let signature = secret.rsplit('.').next().unwrap();
        assert!(written.iter().all(|text| !text.contains(signature)));
    }
}

/// The same token with the other signature that holds for it: ECDSA takes (r, s) and (r, n - s).
fn malleated(token: &str) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    /// The order of P-256 (FIPS 186-4 D.1.2.3).
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa,
        0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let mut borrow = 0i16;
    for at in (0..32).rev() {
        let rest = i16::from(ORDER[at]) - i16::from(signature[32 + at]) - borrow;
        borrow = i16::from(rest < 0);
        signature[32 + at] = u8::try_from(rest.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
