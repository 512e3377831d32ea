//! Sessions of AWS really end: the whole broker against a cloud that evaluates.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dayfly_broker::providers::aws::{AwsConfig, AwsProvider, DenyCounts, DenyParts};
use dayfly_broker::providers::{IssueError, Order, Provider};
use dayfly_broker::public::Issuers;
use dayfly_broker::signer::{FileSigner, Signer, Use};
use dayfly_broker::store::slots::SlotAsk;
use dayfly_broker::store::sqlite::{Options, SqliteStore};
use dayfly_broker::store::{Slots, Store};
use dayfly_client::BrokerClient;
use dayfly_domain::aws_deny::{Capacity, RevokeWhen};
use dayfly_domain::document;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::Revocability;
use dayfly_domain::time::{Timestamp, Ttl};
use dayfly_fakecloud::policy::Decision;
use dayfly_fakecloud::{FakeCloud, Fault, ProviderSeed, RoleSeed, Seed, SessionAsk, Trouble};
use dayfly_proto::v1;
use serde_json::Value;

use crate::world::{ADMIN, Setup, TRAINER, World, reason, scope};

const REGION: &str = "eu-central-1";
const POOL: [&str; 2] = ["s3-train-read-1", "s3-train-read-2"];
const DENY: &str = "dayfly-deny";
const OBJECT: &str = "arn:aws:s3:::corpora/corpus-7/a";

const DOCUMENTS: &str = r#"
kind: Stage
metadata: {name: training}
spec: {patterns: ["spiffe://example.org/train/**"]}
---
kind: Binding
metadata: {name: trainers}
spec: {identities: ["spiffe://example.org/train/*"], scope: s3-train-read, via: direct}
---
"#;

/// A file of `deploy/aws`, for this issuer and its workloads.
fn deployed(name: &str, issuer: &str) -> Value {
    let path = format!("{}/../deploy/aws/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let text =
        text.replace("issuer.example.com", issuer).replace("example.org/training/", "example.org/train/");
    serde_json::from_str(&text).unwrap()
}

/// The account as `deploy/aws/README.md` sets it up.
fn account(signer: &FileSigner, base: &str) -> Seed {
    let issuer = base.split_once("://").unwrap().1;
    let provider = |purpose: Use| ProviderSeed {
        url: format!("{base}/{}", purpose.name()),
        client_ids: vec!["sts.amazonaws.com".to_owned()],
        jwks: Some(signer.jwks(purpose)),
    };
    let permissions = deployed("permissions-policy.json", issuer);
    let pool = POOL.map(|name| RoleSeed {
        name: name.to_owned(),
        path: "/dayfly/pool/".to_owned(),
        trust: deployed("role-trust-policy.json", issuer),
        policies: BTreeMap::new(),
        attached: BTreeMap::from([("dayfly-s3-train-read".to_owned(), permissions.clone())]),
        boundary: Some("dayfly-s3-train-read".into()),
        max_session_duration: 3600,
    });
    let revoker = RoleSeed {
        name: "revoker".to_owned(),
        path: "/dayfly/".to_owned(),
        trust: deployed("revoker-trust-policy.json", issuer),
        policies: BTreeMap::from([("revoker".to_owned(), deployed("revoker-policy.json", issuer))]),
        attached: BTreeMap::new(),
        boundary: None,
        max_session_duration: 3600,
    };
    Seed {
        providers: vec![provider(Use::Federation), provider(Use::Revocation)],
        roles: pool.into_iter().chain([revoker]).collect(),
        buckets: BTreeMap::from([(
            "corpora".to_owned(),
            BTreeMap::from([("corpus-7/a".to_owned(), "text".to_owned())]),
        )]),
    }
}

fn section(cloud: &FakeCloud) -> String {
    format!(
        "[aws]\nregion = \"{REGION}\"\nendpoint_url = \"{}\"\ntimeout = \"2s\"\n\
         [aws.revoker]\nrole = \"dayfly/revoker\"\npropagation = \"5s\"\n",
        cloud.url()
    )
}

/// The broker, the cloud, and a workload that is bound to the scope of `deploy/aws`.
struct Scene {
    world: World,
    cloud: FakeCloud,
    client: BrokerClient,
    admin: BrokerClient,
}

/// A session and what it hangs on.
struct Held {
    task: v1::OpenTaskResponse,
    lease: String,
    key: String,
}

impl Scene {
    async fn new(revoke: &str) -> Self {
        let cloud = FakeCloud::start(&Seed::default());
        // Nobody holds these tasks' streams; they last until they are ended.
        let (limits, sections) = ("stream_grace = \"5m\"", section(&cloud));
        let mut world = World::set_up(Setup { limits, sections: &sections, ..Setup::default() }).await;
        let signer = FileSigner::open(&world.folder.path().join("keys")).unwrap();
        cloud.seed(&account(&signer, "http://127.0.0.1:9/dayfly"));
        let path = format!("{}/../deploy/aws/scope-s3-train-read.yaml", env!("CARGO_MANIFEST_DIR"));
        let scope =
            std::fs::read_to_string(path).unwrap().replace("revoke: always", &format!("revoke: {revoke}"));
        world.apply(&format!("{DOCUMENTS}{scope}")).await;
        let client = world.connect(TRAINER).await;
        let admin = world.connect(ADMIN).await;
        Self { world, cloud, client, admin }
    }

    async fn try_hold(&self) -> (v1::OpenTaskResponse, Result<v1::IssueCredentialResponse, tonic::Status>) {
        let wanted = scope("s3-train-read", &[("dataset", "corpus-7")]);
        let ask = v1::OpenTaskRequest { ceiling: vec![wanted.clone()], ..Default::default() };
        let task = self.client.credentials().open_task(ask).await.unwrap().into_inner();
        let ask = v1::IssueCredentialRequest {
            task_id: task.task_id.clone(),
            task_key: task.task_key.clone(),
            scope: Some(wanted),
            ..Default::default()
        };
        let answer = self.client.credentials().issue_credential(ask).await;
        (task, answer.map(tonic::Response::into_inner))
    }

    async fn hold(&self) -> Held {
        let (task, issued) = self.try_hold().await;
        let issued = issued.unwrap();
        let Some(v1::issue_credential_response::Credential::Aws(session)) = issued.credential else {
            panic!("a session was asked for");
        };
        Held { task, lease: issued.lease_id, key: session.access_key_id }
    }

    async fn end(&self, held: &Held) {
        let (task_id, task_key) = (held.task.task_id.clone(), held.task.task_key.clone());
        let end = v1::EndTaskRequest { task_id, task_key, ..Default::default() };
        self.client.credentials().end_task(end).await.unwrap();
    }

    async fn lease(&self, held: &Held) -> v1::Lease {
        let request = v1::GetLeaseRequest { lease_id: held.lease.clone() };
        self.admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap()
    }

    /// Waits until the lease is over, and returns how.
    async fn over(&self, held: &Held) -> v1::Lease {
        until(Duration::from_secs(20), async || {
            let lease = self.lease(held).await;
            (lease.state == "ended").then_some(lease)
        })
        .await
    }

    fn may(&self, key: &str, action: &str, resource: &str) -> Decision {
        self.cloud.decision(key, REGION, action, resource).expect("the session has not run out")
    }

    fn reads(&self, held: &Held) -> bool {
        self.may(&held.key, "s3:GetObject", OBJECT) == Decision::Allowed
    }

    fn document(&self) -> String {
        self.cloud.role_policy(POOL[0], DENY).unwrap_or_default()
    }

    fn writes(&self) -> usize {
        let asked = self.cloud.asked();
        asked.iter().filter(|asked| asked.action == "iam:PutRolePolicy" && asked.refused.is_none()).count()
    }
}

fn revocability(lease: &v1::Lease) -> v1::Revocability {
    lease.promise.as_ref().expect("each lease has a promise").revocability()
}

async fn until<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let from = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(from.elapsed() < limit, "it did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_task_and_a_neighbours_lives_on() {
    let scene = Scene::new("always").await;
    let (ends, stays) = (scene.hold().await, scene.hold().await);
    let promised = scene.lease(&ends).await;
    assert_eq!(revocability(&promised), v1::Revocability::Deny);
    assert!(scene.reads(&ends) && scene.reads(&stays));
    // The canary is opened once the first session is; what ends before it is proven by a later version.
    scene.end(&ends).await;
    let over = scene.over(&ends).await;
    assert_eq!(over.outcome, "verified");
    assert!(matches!(scene.may(&ends.key, "s3:GetObject", OBJECT), Decision::Denied(_)));
    assert!(scene.reads(&stays), "{}", scene.document());
    for told in [REGION, &scene.cloud.url(), "denied explicitly", POOL[0]] {
        assert!(over.evidence.contains(told), "{told}: {}", over.evidence);
    }
    // A session of the role that nobody knows of has no slot, and may do nothing.
    let stray =
        SessionAsk { role: POOL[0].to_owned(), name: "stray".to_owned(), seconds: 900, ..Default::default() };
    let stray = scene.cloud.session(&stray);
    assert!(matches!(scene.may(&stray.access_key_id, "s3:GetObject", OBJECT), Decision::Denied(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ends_are_few_writes_and_the_first_is_at_once() {
    let scene = Scene::new("always").await;
    let mut held = Vec::new();
    for _ in 0..24 {
        held.push(scene.hold().await);
    }
    let survivor = held.pop().unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let (before, from) = (scene.writes(), Instant::now());
    scene.end(&held[0]).await;
    until(Duration::from_millis(900), async || (!scene.reads(&held[0])).then_some(())).await;
    for one in &held[1..] {
        scene.end(one).await;
    }
    for one in &held {
        assert_eq!(scene.over(one).await.outcome, "verified");
        assert!(!scene.reads(one));
    }
    let (writes, seconds) = (scene.writes() - before, usize::try_from(from.elapsed().as_secs()).unwrap());
    assert!(writes <= seconds + 2, "{writes} writes in {seconds} s");
    assert!(scene.reads(&survivor));
}

#[tokio::test(flavor = "multi_thread")]
async fn applied_is_not_verified_while_the_session_still_works() {
    let scene = Scene::new("always").await;
    let held = scene.hold().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.cloud.propagation(Duration::from_secs(4));
    scene.end(&held).await;
    let mut was_applied = false;
    let over = until(Duration::from_secs(25), async || {
        // The lease is asked first: the session may end in between, not come back.
        let lease = scene.lease(&held).await;
        let worked = scene.reads(&held);
        assert!(!(lease.state == "ended" && worked), "{lease:?} and it works");
        was_applied |= lease.state == "revoking" && worked && scene.document().contains("StringLike");
        (lease.state == "ended").then_some(lease)
    })
    .await;
    assert_eq!(over.outcome, "verified");
    assert!(was_applied && !scene.reads(&held));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_throttled_or_silent_iam_was_told_is_told_again() {
    let scene = Scene::new("always").await;
    let (held, stays) = (scene.hold().await, scene.hold().await);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let fault =
        |trouble, times| Fault { action: "iam:PutRolePolicy".to_owned(), trouble, times: Some(times) };
    for (trouble, times) in
        [(Trouble::Throttle, 2), (Trouble::Fail(503), 1), (Trouble::LoseRequest, 1), (Trouble::LoseAnswer, 1)]
    {
        scene.cloud.fault(fault(trouble, times));
    }
    scene.end(&held).await;
    assert_eq!(scene.over(&held).await.outcome, "verified");
    assert!(!scene.reads(&held), "{}", scene.document());
    assert!(scene.reads(&stays), "{}", scene.document());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_answer_was_lost_is_denied_though_nobody_holds_it() {
    let scene = Scene::new("always").await;
    scene.hold().await;
    until(Duration::from_secs(5), async || (!scene.document().is_empty()).then_some(())).await;
    let lost = Fault {
        action: "sts:AssumeRoleWithWebIdentity".to_owned(),
        trouble: Trouble::LoseAnswer,
        times: Some(1),
    };
    // The canary's own session is asked for by the same name: it is there before the fault is.
    tokio::time::sleep(Duration::from_secs(1)).await;
    scene.cloud.fault(lost);
    let (_, answer) = scene.try_hold().await;
    assert_eq!(reason(answer), "PROVIDER_DID_NOT_ANSWER");
    let listed = until(Duration::from_secs(10), async || {
        Some(scene.document()).filter(|text| text.contains("StringLike"))
    })
    .await;
    let document: Value = serde_json::from_str(&listed).unwrap();
    let slots = &document["Statement"][1]["Condition"]["StringLike"]["aws:PrincipalTag/dayfly-slot"];
    assert!(!slots.as_array().unwrap().is_empty(), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_somebody_changed_is_repaired_and_told() {
    let mut scene = Scene::new("always").await;
    let held = scene.hold().await;
    scene.end(&held).await;
    scene.over(&held).await;
    let harmless =
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"s3:X","Resource":"*"}]}"#;
    scene.cloud.put_role_policy(POOL[0], DENY, Some(harmless)).unwrap();
    assert!(scene.reads(&held), "it is back");
    // A broker compares when it starts, and every minute.
    scene.world.restart().await;
    until(Duration::from_secs(10), async || (!scene.reads(&held)).then_some(())).await;
    let admin = scene.world.connect(ADMIN).await;
    let request = v1::ReadAuditRequest { stream: "admin".to_owned(), from_seq: 1 };
    let found = until(Duration::from_secs(5), async || {
        use tokio_stream::StreamExt;
        let mut records = admin.admin().read_audit(request.clone()).await.unwrap().into_inner();
        let mut texts = Vec::new();
        while let Some(Ok(record)) = records.next().await {
            texts.push(String::from_utf8_lossy(&record.bytes).into_owned());
        }
        Some(texts.concat()).filter(|text| text.contains("deny_document_changed"))
    });
    found.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_the_revokers_rights_can_give_nothing() {
    let scene = Scene::new("always").await;
    let held = scene.hold().await;
    let hostile = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
    scene.cloud.put_role_policy(POOL[0], "hostile", Some(hostile)).unwrap();
    // A session without a session policy, as the federation key's thief would make it.
    let tags = BTreeMap::from([("dayfly-slot".to_owned(), "___".to_owned())]);
    let (role, name) = (POOL[0].to_owned(), "thief".to_owned());
    let thief = scene.cloud.session(&SessionAsk { role, name, tags, seconds: 900, ..Default::default() });
    for key in [&held.key, &thief.access_key_id] {
        for (action, resource) in [
            ("s3:PutObject", OBJECT),
            ("s3:GetObject", "arn:aws:s3:::salaries/all"),
            ("iam:CreateUser", "*"),
            ("sts:AssumeRole", "arn:aws:iam::111122223333:role/admin"),
        ] {
            assert!(matches!(scene.may(key, action, resource), Decision::NotAllowed(_)), "{action}");
        }
    }
    let revoker = SessionAsk {
        role: "revoker".to_owned(),
        name: "thief".to_owned(),
        seconds: 900,
        ..Default::default()
    };
    let revoker = scene.cloud.session(&revoker).access_key_id;
    let (pool, own) = (
        "arn:aws:iam::111122223333:role/dayfly/pool/s3-train-read-1",
        "arn:aws:iam::111122223333:role/dayfly/revoker",
    );
    assert_eq!(scene.may(&revoker, "iam:GetRolePolicy", pool), Decision::Allowed);
    for action in [
        "iam:DeleteRolePolicy",
        "iam:AttachRolePolicy",
        "iam:UpdateAssumeRolePolicy",
        "iam:PassRole",
        "iam:DeleteRolePermissionsBoundary",
        "iam:PutRolePermissionsBoundary",
        "iam:CreateRole",
        "sts:AssumeRole",
    ] {
        assert!(matches!(scene.may(&revoker, action, pool), Decision::NotAllowed(_)), "{action}");
    }
    // Without a boundary to name, as on its own role, it may not write either.
    assert!(matches!(scene.may(&revoker, "iam:PutRolePolicy", own), Decision::NotAllowed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_may_leave_its_sessions_to_run_out_unless_an_admin_says_otherwise() {
    let scene = Scene::new("admin_only").await;
    let held = scene.hold().await;
    assert_eq!(revocability(&scene.lease(&held).await), v1::Revocability::ExpiryOnly);
    scene.end(&held).await;
    until(Duration::from_secs(5), async || scene.lease(&held).await.runs_out_at).await;
    assert!(scene.reads(&held), "its task is over, and it runs out");
    let kill = v1::RevokeRequest {
        target: Some(v1::revoke_request::Target::LeaseId(held.lease.clone())),
        ..Default::default()
    };
    scene.admin.admin().revoke(kill).await.unwrap();
    assert_eq!(scene.over(&held).await.outcome, "verified");
    assert!(!scene.reads(&held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_whose_roles_the_revoker_cannot_write_is_refused() {
    let scene = Scene::new("always").await;
    let path = format!("{}/../deploy/aws/scope-s3-train-read.yaml", env!("CARGO_MANIFEST_DIR"));
    let elsewhere =
        std::fs::read_to_string(path).unwrap().replace("pool/s3-train-read-2", "pool/s3-train-write-2");
    let request = v1::ApplyRequest { yaml: elsewhere, ..Default::default() };
    let answer = scene.world.try_apply(request).await.unwrap();
    assert!(
        answer.faults.iter().any(|fault| format!("{fault:?}").contains("the revoker cannot read")),
        "{answer:?}"
    );
}

/// Fills a role behind the broker's back, which takes 1,600 sessions that are young.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_role_spills_to_the_next_and_a_full_pool_refuses() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let signer = Arc::new(FileSigner::open(&folder.path().join("keys")).unwrap());
    let cloud = FakeCloud::start(&account(&signer, "http://127.0.0.1:9"));
    let store = SqliteStore::open(&folder.path().join("state"), "one", Options::default()).await.unwrap();
    let store = Arc::new(store);
    #[derive(serde::Deserialize)]
    struct Sections {
        aws: AwsConfig,
    }
    let config = toml::from_str::<Sections>(&section(&cloud)).unwrap().aws;
    let issuers = Issuers::new("http://127.0.0.1:9").unwrap();
    let shared: Arc<dyn Store> = Arc::<SqliteStore>::clone(&store);
    let parts = DenyParts { store: shared, owner: "one".to_owned(), counts: DenyCounts::default() };
    let aws = AwsProvider::new(&config, &issuers, signer).unwrap().denying(&config, parts).unwrap();

    let path = format!("{}/../deploy/aws/scope-s3-train-read.yaml", env!("CARGO_MANIFEST_DIR"));
    let (documents, _) = document::parse(&std::fs::read_to_string(path).unwrap());
    let rules = document::compile(1, &[], &documents).unwrap();
    let scope = rules.scope("s3-train-read").unwrap();
    assert_eq!(aws.promise(scope).revocability, Revocability::Deny);
    let target =
        scope.target.render(&BTreeMap::from([("dataset".to_owned(), "corpus-7".to_owned())])).unwrap();
    let issue = async || {
        let now = now();
        let task = TaskId::new(now, rand::random());
        let order = Order {
            lease: LeaseId::new(now, rand::random()),
            task,
            session: SessionId::from(task),
            subject: &TRAINER.parse().unwrap(),
            chain: &[],
            scope,
            target: &target,
            narrowing: &Narrowing::default(),
            ttl: Ttl::minutes(15),
            now,
        };
        aws.issue(&order).await.map(|issued| issued.handle.0["role_arn"].as_str().unwrap().to_owned())
    };
    let arn = |name: &str| format!("arn:aws:iam::111122223333:role/dayfly/pool/{name}");
    let fill = async |name: &str| {
        let now = now();
        for number in 0..Capacity::OF_A_ROLE.get() {
            let ask = SlotAsk {
                lease: LeaseId::new(now, rand::random()),
                tree: Some(SessionId::from(TaskId::new(now, u128::from(number)))),
                revoke_when: RevokeWhen::Always,
                roles: vec![arn(name)],
                given_by: now,
                gone_at: now + Ttl::minutes(15),
                skew: Ttl::seconds(30),
                spare: 64,
                entropy: number,
                now,
            };
            if store.reserve_slot(ask).await.is_err() {
                return;
            }
        }
    };
    assert_eq!(issue().await.unwrap(), arn(POOL[0]));
    fill(POOL[0]).await;
    assert_eq!(issue().await.unwrap(), arn(POOL[1]), "what could not be ended there is opened here");
    fill(POOL[1]).await;
    let refused = issue().await;
    assert!(matches!(refused, Err(IssueError::Full { .. })), "{refused:?}");
    let made = cloud.asked().iter().filter(|asked| asked.action == "sts:AssumeRoleWithWebIdentity").count();
    let canaries_and_revoker = 3;
    assert!(made <= 2 + canaries_and_revoker, "a refused session is not asked for: {made}");
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}
