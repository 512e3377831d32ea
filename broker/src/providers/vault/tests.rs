//! Answers that a healthy Vault does not give: a revoke that does not hold, a failure after the creation.

use std::sync::Mutex;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, LeaseState, RevokeCause};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::TtlLimits;
use dayfly_domain::secret::Secret;
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::template::Template;
use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::from_unix_seconds(1_700_000_000);

/// What the fake answers, by path; everything else is 404.
type Answers = Arc<Mutex<HashMap<&'static str, (u16, Value)>>>;

/// A provider before a fake Vault, which logs it in.
async fn fake() -> (VaultProvider, Answers) {
    let auth = json!({"auth": {
        "client_token": "hvs.login", "accessor": "a", "policies": ["p"], "lease_duration": 86_400,
        "renewable": true, "entity_id": "e", "token_type": "service", "orphan": true,
    }});
    let answers: Answers = Arc::new(Mutex::new(HashMap::from([
        ("auth/jwt/login", (200, auth)),
        ("sys/health", (200, json!({"cluster_id": "c1"}))),
    ])));
    let serve = |State(answers): State<Answers>, request: Request| async move {
        let path = request.uri().path().trim_start_matches("/v1/");
        let answer = answers.lock().expect("no holder panics").get(path).cloned();
        let (status, body) = answer.unwrap_or((404, json!({"errors": []})));
        (StatusCode::from_u16(status).expect("a status"), body.to_string())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let app = Router::new().fallback(serve).with_state(answers.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    let config =
        toml::from_str(&format!("address = \"http://{address}\"\naudience = \"vault\"")).expect("legal");
    (VaultProvider::start(config, Always).await.expect("a provider"), answers)
}

struct Always;

#[async_trait]
impl JwtSource for Always {
    async fn fetch(&self, _: &str) -> Result<Secret, BoxError> {
        Ok(Secret::new("e30.e30.e30".to_owned()))
    }
}

fn answer(answers: &Answers, path: &'static str, status: u16, body: Value) {
    answers.lock().expect("no holder panics").insert(path, (status, body));
}

fn errors(text: &str) -> Value {
    json!({"errors": [text]})
}

fn revoking(handle: Value) -> Lease {
    let task = TaskId::new(NOW, 1);
    Lease {
        id: LeaseId::new(NOW, 2),
        task,
        session: SessionId::from(task),
        spiffe_id: "spiffe://example.org/a".parse().expect("legal"),
        scope: "kb".into(),
        parameters: Parameters::new(),
        provider: NAME.into(),
        promise: Promise {
            revocability: Revocability::Exact,
            worst_case_after_end: Ttl::ZERO,
            leaves_behind: Vec::new(),
        },
        narrowed: None,
        renews: None,
        opened_at: NOW,
        state: LeaseState::Revoking {
            requested_at: NOW,
            cause: RevokeCause::Holder,
            handle: Some(Handle(handle)),
            applied_at: None,
            runs_out_at: None,
            bound: NOW + Ttl::minutes(5),
        },
    }
}

#[tokio::test]
async fn nothing_but_an_unknown_accessor_proves_a_revocation() {
    let (vault, answers) = fake().await;
    let lease = revoking(json!({"accessor": "acc"}));
    let (revoke, look_up) = ("auth/token/revoke-accessor", "auth/token/lookup-accessor");
    answer(&answers, revoke, 204, Value::Null);
    for (status, body, proven) in [
        (400, errors("1 error occurred:\n\t* invalid accessor\n\n"), true),
        (403, errors("invalid accessor"), true),
        (200, json!({"data": {"ttl": 200}}), false),
        (403, errors("bad token"), false),
    ] {
        answer(&answers, look_up, status, body.clone());
        let outcome = vault.revoke(&lease, NOW).await.expect("an outcome");
        assert_eq!(matches!(outcome, Revocation::Verified { .. }), proven, "{body}: {outcome:?}");
        assert!(proven || outcome == Revocation::Applied, "{body}: {outcome:?}");
    }
    for (status, body) in
        [(403, errors("permission denied")), (404, errors("")), (500, errors("internal error"))]
    {
        answer(&answers, look_up, status, body.clone());
        assert!(vault.revoke(&lease, NOW).await.is_err(), "{body}");
    }
    // A token that is being revoked at this moment is looked up like any other.
    answer(&answers, revoke, 400, errors("token not found"));
    answer(&answers, look_up, 403, errors("bad token"));
    assert_eq!(vault.revoke(&lease, NOW).await.expect("an outcome"), Revocation::Applied);
    answer(&answers, look_up, 400, errors("invalid accessor"));
    answer(&answers, revoke, 403, errors("permission denied"));
    assert!(vault.revoke(&lease, NOW).await.is_err());
}

#[tokio::test]
async fn a_lease_that_vault_still_knows_is_not_verified() {
    let (vault, answers) = fake().await;
    let lease = revoking(json!({"accessor": "acc", "lease_ids": ["pki/issue/web/1"]}));
    answer(&answers, "auth/token/revoke-accessor", 204, Value::Null);
    answer(&answers, "auth/token/lookup-accessor", 400, errors("invalid accessor"));
    answer(&answers, "sys/leases/revoke", 400, errors("failed to revoke entry: database is down"));
    let error = vault.revoke(&lease, NOW).await.expect_err("the engine failed");
    assert!(error.to_string().contains("database is down"), "{error}");
    answer(&answers, "sys/leases/revoke", 204, Value::Null);
    answer(&answers, "sys/leases/lookup", 200, json!({"data": {"ttl": 1}}));
    assert_eq!(vault.revoke(&lease, NOW).await.expect("an outcome"), Revocation::Applied);
    answer(&answers, "sys/leases/lookup", 400, errors("invalid lease"));
    assert!(matches!(vault.revoke(&lease, NOW).await, Ok(Revocation::Verified { .. })));
}

#[tokio::test]
async fn a_creation_that_failed_halfway_is_not_called_refused() {
    let (vault, answers) = fake().await;
    let target = json!({"role": "kb", "policies": ["kb-read"], "explicit_max_ttl": "8h"});
    let scope = Scope {
        name: "kb".into(),
        description: String::new(),
        stages: Default::default(),
        parameters: Default::default(),
        ttl: TtlLimits { default: Ttl::minutes(5), max: Ttl::hours(1) },
        anchor: None,
        approval: None,
        leaves_behind: Vec::new(),
        limits: Default::default(),
        on_agent_loss: Default::default(),
        provider: NAME.into(),
        target: Template::parse(target.clone(), &Default::default()).expect("a template"),
        digest: String::new(),
    };
    let lease = revoking(Value::Null);
    let subject: SpiffeId = "spiffe://example.org/a".parse().expect("legal");
    let narrowing = Narrowing::default();
    let order = |ttl| Order {
        lease: lease.id,
        task: lease.task,
        session: lease.session,
        subject: &subject,
        chain: &[],
        scope: &scope,
        target: &target,
        narrowing: &narrowing,
        ttl,
        now: NOW,
    };
    for (status, body, outcome) in [
        (500, errors("internal error"), "did not answer"),
        (200, json!({"auth": null}), "did not answer"),
        (200, json!("<html>"), "did not answer"),
        (429, errors("lease count quota exceeded"), "did not answer"),
        (429, errors("rate limit quota exceeded"), "is out of reach"),
        (503, errors("Vault is sealed"), "is out of reach"),
        (400, errors("unknown role kb"), "refused"),
    ] {
        answer(&answers, "auth/token/create/kb", status, body.clone());
        let error = vault.issue(&order(Ttl::minutes(5))).await.expect_err("no token came");
        assert!(error.to_string().starts_with(&format!("vault {outcome}")), "{status} {body}: {error}");
    }
    // `ttl=0s` would be Vault's own default, days.
    let error = vault.issue(&order(Ttl::millis(900))).await.expect_err("too short");
    assert!(matches!(error, IssueError::Refuse { .. }), "{error}");
}
