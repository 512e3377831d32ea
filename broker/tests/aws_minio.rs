//! The `aws` provider on STS's that are not ours: MinIO, which checks our assertions against our own discovery documents and
//! enforces the session policy, and moto, which has the wire shape of AWS and checks nothing.
//!
//! Needs the peers: `scripts/test` builds them and runs this with the feature `peers`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

mod world;

#[path = "aws_minio/policies.rs"]
mod policies;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use dayfly_broker::providers::aws::{AwsConfig, AwsProvider};
use dayfly_broker::providers::{Credential, IssueError, Issued, Order, Provider, Renewal, Revocation};
use dayfly_broker::public::{Discovery, Endpoints, Issuers};
use dayfly_broker::signer::{FileSigner, Signer, Use};
use dayfly_domain::document;
use dayfly_domain::id::{LeaseId, SessionId, TaskId};
use dayfly_domain::lease::{Handle, Lease, LeaseState};
use dayfly_domain::parameter::Parameters;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::template::Template;
use dayfly_domain::time::{Timestamp, Ttl};
use harness::{Answers, Minio, Moto, Python, TcpProxy};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

const AUDIENCE: &str = "sts.amazonaws.com";
const WORKLOAD: &str = "spiffe://example.org/training/job-42";

#[tokio::test]
async fn a_session_reads_its_own_prefix_and_not_the_neighbours() {
    let world = World::new().await;
    let aws = world.provider(&world.minio.url());
    let scope = world.scope();
    assert_eq!(aws.check_scope(&scope), []);
    assert_eq!(aws.probe_scope(&scope).await, []);

    let (lease, issued) = world.issue(&aws, &scope, "corpus-7").await;
    let issued = issued.unwrap();
    let left = now().until(issued.expires_at);
    assert!(left > Ttl::minutes(14) && left <= Ttl::minutes(15), "{left}");
    assert_eq!(issued.handle.0["session_name"], json!(lease));
    let seen = world.use_session(&issued.credential).await;
    assert_eq!(
        seen,
        json!({
            "get corpus-7/a": "ok", "get corpus-70/a": "AccessDenied", "get corpus-8/a": "AccessDenied",
            "list corpus-7/": "ok", "list corpus-70/": "AccessDenied", "list": "AccessDenied",
            "put corpus-7/a": "AccessDenied", "delete corpus-7/a": "AccessDenied",
        })
    );
    assert!(!format!("{issued:?}").contains(world.key_id(&issued.credential)), "{issued:?}");
}

#[tokio::test]
async fn a_policys_deny_statement_holds_in_the_session() {
    let world = World::new().await;
    let aws = world.provider(&world.minio.url());
    let scope = world.scope();
    let denied = json!({"Effect": "Deny", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::corpora/*"});
    let narrowing = Narrowing { deny_statements: vec![denied], ..Narrowing::default() };
    let target = scope.target.render(&Parameters::from([("dataset".into(), "corpus-7".into())])).unwrap();
    assert_eq!(aws.can_narrow(&target, &narrowing), Ok(()));
    let (_, issued) = issue_narrowed(&aws, &scope, "corpus-7", &narrowing).await;
    let seen = world.use_session(&issued.unwrap().credential).await;
    assert_eq!((&seen["get corpus-7/a"], &seen["list corpus-7/"]), (&json!("AccessDenied"), &json!("ok")));
}

#[tokio::test]
async fn the_end_of_a_lease_is_told_as_running_out_and_the_session_does_live_on() {
    let world = World::new().await;
    let aws = world.provider(&world.minio.url());
    let scope = world.scope();
    let promise = Promise {
        revocability: Revocability::ExpiryOnly,
        worst_case_after_end: Ttl::hours(1),
        leaves_behind: Vec::new(),
    };
    assert_eq!(aws.promise(&scope), promise);
    assert_eq!(aws.renewal(&scope), Renewal::Reissue);

    let (id, issued) = world.issue(&aws, &scope, "corpus-7").await;
    let issued = issued.unwrap();
    let lease = lease(id, &issued.handle, issued.expires_at, promise);
    assert!(aws.extend(&lease, &scope, Ttl::minutes(15), now()).await.is_err());
    assert_eq!(aws.revoke(&lease, now()).await.unwrap(), Revocation::RunsOut);
    // Were this to fail one day, the promise could be better.
    assert_eq!(world.use_session(&issued.credential).await["get corpus-7/a"], "ok");
}

#[tokio::test]
async fn an_assertion_for_another_audience_or_of_another_key_is_refused() {
    let world = World::new().await;
    let scope = world.scope();
    let with = |audience: &str, signer: Arc<FileSigner>| {
        AwsProvider::new(&config(&world.minio.url(), audience), &world.issuers, signer).unwrap()
    };
    let stranger = signer();
    for (what, aws) in
        [("audience", with("elsewhere", world.signer.clone())), ("key", with(AUDIENCE, stranger))]
    {
        let (_, refused) = world.issue(&aws, &scope, "corpus-7").await;
        assert!(matches!(refused, Err(IssueError::Refuse { .. })), "{what}: {refused:?}");
    }
    // The same but for what differs above.
    let aws = with(AUDIENCE, world.signer.clone());
    world.issue(&aws, &scope, "corpus-7").await.1.unwrap();
}

/// Whoever gets an access token for an audience of STS must not be able to trade it. MinIO does not look at `iss`, so this
/// rests on the keys alone: each kind has its own, and a JWKS of its own.
#[tokio::test]
async fn an_access_token_is_not_traded_for_a_session() {
    let world = World::new().await;
    let at = now().unix_seconds();
    let sign = async |purpose: Use, issuer: &str| {
        let claims = json!({"iss": issuer, "sub": WORKLOAD, "aud": AUDIENCE, "iat": at, "exp": at + 120});
        world.signer.sign(purpose, purpose.typ(), &claims).await.unwrap()
    };
    let (access, federation) = (world.issuers.url(Use::Access), world.issuers.url(Use::Federation));
    for (token, status) in [
        (sign(Use::Access, access).await, 400),
        (sign(Use::Access, federation).await, 400),
        (sign(Use::Federation, federation).await, 200),
    ] {
        let form = [
            ("Action", "AssumeRoleWithWebIdentity"),
            ("Version", "2011-06-15"),
            ("RoleArn", world.minio.role_arn()),
            ("RoleSessionName", "probe"),
            ("WebIdentityToken", &token),
        ];
        let query = reqwest::Url::parse_with_params(&world.minio.url(), form).unwrap();
        let answer = reqwest::Client::new().post(query).send().await.unwrap();
        assert_eq!(answer.status(), status, "{}", answer.text().await.unwrap());
    }
}

#[tokio::test]
async fn a_lost_answer_is_unresolved_and_asked_for_once() {
    let world = World::new().await;
    let peer: SocketAddr = world.minio.url().trim_start_matches("http://").parse().unwrap();
    let proxy = TcpProxy::before(peer).await.unwrap();
    let aws = world.provider(&proxy.url());
    for lost in [Answers::LostFor("AssumeRoleWithWebIdentity".to_owned()), Answers::Swallowed] {
        proxy.set(lost.clone());
        let (before, from) = (proxy.lost(), Instant::now());
        let (_, answered) = world.issue(&aws, &world.scope(), "corpus-7").await;
        assert!(matches!(answered, Err(IssueError::Unresolved { .. })), "{lost:?}: {answered:?}");
        assert!(from.elapsed().as_secs() < 5, "{:?}", from.elapsed());
        // MinIO did act, and once.
        assert!(proxy.lost() > before, "{lost:?}");
    }
    assert_eq!(proxy.connections(), 2);
    proxy.set(Answers::Pass);
    world.issue(&aws, &world.scope(), "corpus-7").await.1.unwrap();
    let residue = aws.residue(&world.scope(), Ttl::minutes(15));
    assert!(residue > Ttl::minutes(15) && residue < Ttl::minutes(20), "{residue}");
}

#[tokio::test]
async fn an_sts_that_is_down_was_never_asked() {
    let world = World::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let aws = world.provider(&format!("http://{closed}"));
    let (_, answered) = world.issue(&aws, &world.scope(), "corpus-7").await;
    assert!(matches!(answered, Err(IssueError::Unreach { .. })), "{answered:?}");
    let faults = aws.probe_scope(&world.scope()).await;
    assert!(faults[0].problem.contains("out of reach"), "{faults:?}");
}

#[tokio::test]
async fn the_wire_shape_is_that_of_aws_as_moto_tells_it() {
    let moto = Moto::start().await.unwrap();
    let issuers = Issuers::new("http://127.0.0.1:1").unwrap();
    let aws = AwsProvider::new(&config(&moto.url(), AUDIENCE), &issuers, signer()).unwrap();
    let role = "arn:aws:iam::123456789012:role/dayfly/s3-train-read";
    let (lease, issued) = issue(&aws, &scope(role), "corpus-7").await;
    let issued = issued.unwrap();
    assert_eq!(issued.handle.0["role_arn"], role);
    assert!(issued.handle.0["assumed_role_id"].as_str().unwrap().ends_with(&format!(":{lease}")));
    let left = now().until(issued.expires_at);
    assert!(left > Ttl::minutes(14) && left <= Ttl::minutes(15), "{left}");
    let Credential::Aws { access_key_id, region, .. } = &issued.credential else { panic!("another kind") };
    assert!(access_key_id.expose().starts_with("ASIA") && region == "eu-central-1");
    assert_eq!(moto.log().matches("POST / ").count(), 1, "{}", moto.log());
}

/// MinIO that trusts our federation issuer, whose documents our own discovery serves.
struct World {
    minio: Minio,
    issuers: Issuers,
    signer: Arc<FileSigner>,
    _stop: DropGuard,
}

impl World {
    async fn new() -> Self {
        Self::of(signer()).await
    }

    /// With signing keys that a broker uses too.
    async fn with_keys(keys: &Path) -> Self {
        Self::of(Arc::new(FileSigner::open(keys).unwrap())).await
    }

    async fn of(signer: Arc<FileSigner>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuers = Issuers::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(
            Discovery::new(issuers.clone(), signer.clone(), Endpoints::default())
                .serve(listener, stop.clone()),
        );
        let discovery = format!("{}/.well-known/openid-configuration", issuers.url(Use::Federation));
        let minio = Minio::start(&discovery, AUDIENCE).await.unwrap();
        let objects = "s3.create_bucket(Bucket='corpora')\n\
                       for k in ('corpus-7/a', 'corpus-70/a', 'corpus-8/a'): s3.put_object(Bucket='corpora', Key=k, Body=b'x')";
        minio.as_root(objects).await.unwrap();
        Self { minio, issuers, signer, _stop: stop.drop_guard() }
    }

    fn provider(&self, endpoint: &str) -> AwsProvider {
        AwsProvider::new(&config(endpoint, AUDIENCE), &self.issuers, self.signer.clone()).unwrap()
    }

    fn scope(&self) -> Scope {
        scope(self.minio.role_arn())
    }

    async fn issue(
        &self,
        aws: &AwsProvider,
        scope: &Scope,
        dataset: &str,
    ) -> (LeaseId, Result<Issued, IssueError>) {
        issue(aws, scope, dataset).await
    }

    fn key_id<'a>(&self, credential: &'a Credential) -> &'a str {
        let Credential::Aws { access_key_id, .. } = credential else { panic!("another kind") };
        access_key_id.expose()
    }

    /// What boto3 can do with the session, each act with its outcome.
    async fn use_session(&self, credential: &Credential) -> Value {
        let Credential::Aws { access_key_id, secret_access_key, session_token, region } = credential else {
            panic!("another kind of credential")
        };
        let program = Python::find().unwrap().script(USE).env("ENDPOINT", self.minio.url());
        let program = program
            .env("AWS_ACCESS_KEY_ID", access_key_id.expose())
            .env("AWS_SECRET_ACCESS_KEY", secret_access_key.expose())
            .env("AWS_SESSION_TOKEN", session_token.expose())
            .env("AWS_REGION", region)
            .env("AWS_DEFAULT_REGION", region);
        serde_json::from_str(&program.output().await.unwrap()).unwrap()
    }
}

const USE: &str = r#"
import boto3, botocore, json, os
s3 = boto3.client("s3", endpoint_url=os.environ["ENDPOINT"])
def outcome(act, **what):
    try:
        act(Bucket="corpora", **what)
        return "ok"
    except botocore.exceptions.ClientError as error:
        return error.response["Error"]["Code"]
seen = {f"get {key}": outcome(s3.get_object, Key=key) for key in ("corpus-7/a", "corpus-70/a", "corpus-8/a")}
for prefix in ("corpus-7/", "corpus-70/"):
    seen[f"list {prefix}"] = outcome(s3.list_objects_v2, Prefix=prefix)
seen["list"] = outcome(s3.list_objects_v2)
seen["put corpus-7/a"] = outcome(s3.put_object, Key="corpus-7/a", Body=b"y")
seen["delete corpus-7/a"] = outcome(s3.delete_object, Key="corpus-7/a")
print(json.dumps(seen))
"#;

async fn issue(aws: &AwsProvider, scope: &Scope, dataset: &str) -> (LeaseId, Result<Issued, IssueError>) {
    issue_narrowed(aws, scope, dataset, &Narrowing::default()).await
}

async fn issue_narrowed(
    aws: &AwsProvider,
    scope: &Scope,
    dataset: &str,
    narrowing: &Narrowing,
) -> (LeaseId, Result<Issued, IssueError>) {
    let at = now();
    let (id, task) = (LeaseId::new(at, rand::random()), TaskId::new(at, rand::random()));
    let values = Parameters::from([("dataset".to_owned(), dataset.to_owned())]);
    let order = Order {
        lease: id,
        task,
        session: SessionId::from(task),
        subject: &WORKLOAD.parse().unwrap(),
        chain: &[],
        scope,
        target: &scope.target.render(&values).unwrap(),
        narrowing,
        ttl: scope.ttl.default,
        now: at,
    };
    (id, aws.issue(&order).await)
}

/// The scope of `deploy/aws`, for another role.
fn scope(role_arn: &str) -> Scope {
    let (documents, faults) = document::parse(&file("scope-s3-train-read.yaml"));
    assert!(faults.is_empty(), "{faults:?}");
    let rules = document::compile(1, &[], &documents).unwrap();
    let mut scope = rules.scope("s3-train-read").unwrap().as_ref().clone();
    let mut tree = scope.target.tree().clone();
    tree.as_object_mut().unwrap().remove("role_arns");
    tree["role_arn"] = json!(role_arn);
    scope.target = Template::parse(tree, &scope.parameters).unwrap();
    scope
}

/// A file of `deploy/aws`.
fn file(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/aws").join(name);
    std::fs::read_to_string(path).unwrap()
}

fn lease(id: LeaseId, handle: &Handle, expires_at: Timestamp, promise: Promise) -> Lease {
    let task = TaskId::new(now(), 1);
    Lease {
        id,
        task,
        session: SessionId::from(task),
        spiffe_id: WORKLOAD.parse().unwrap(),
        scope: "s3-train-read".to_owned(),
        parameters: Parameters::default(),
        provider: "aws".to_owned(),
        promise,
        narrowed: None,
        renews: None,
        opened_at: now(),
        state: LeaseState::Active { expires_at, handle: handle.clone() },
    }
}

fn config(endpoint: &str, audience: &str) -> AwsConfig {
    let text = format!(
        "region = 'eu-central-1'\nendpoint_url = '{endpoint}'\naudience = '{audience}'\ntimeout = '2s'"
    );
    toml::from_str(&text).unwrap()
}

fn signer() -> Arc<FileSigner> {
    let home = tempfile::tempdir().unwrap();
    Arc::new(FileSigner::open(&home.path().join("keys")).unwrap())
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(i64::try_from(since.as_millis()).unwrap())
}
