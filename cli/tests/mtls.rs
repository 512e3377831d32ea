//! The admins' verbs over mTLS, with identities from a development Workload API.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use dayfly_client::v1::decide_approval_request::Verdict;
use dayfly_client::v1::request_approval_request::End;
use dayfly_client::{
    Identity, IdentityOptions, Incoming, IncomingLimits, Pick, ServerTls, Speaks, SpiffeId, TrustDomain,
};
use dayfly_devspiffe::{Authority, Entry, Server};
use support::{Done, World, golden};
use tokio::net::UnixListener;

const BROKER: &str = "spiffe://prod.test/dayfly/broker";
const ADMIN: &str = "spiffe://prod.test/admin/ann";

/// The fake broker behind mTLS at `mtls.sock`, and the Workload API that knows it and `dayfly`.
fn serve(world: &World) -> Server {
    world.runtime.block_on(async {
        let workload = Server::builder(Authority::in_memory("prod.test").unwrap())
            .workload_socket(world.path("workload.sock"))
            .entry(Entry::new(BROKER).unwrap().process(std::process::id()).unwrap())
            .entry(Entry::new(ADMIN).unwrap().path(env!("CARGO_BIN_EXE_dayfly")))
            .start()
            .await
            .unwrap();
        let pick = Pick::Id(SpiffeId::new(BROKER).unwrap());
        let options = IdentityOptions { pick, ..IdentityOptions::default() };
        let identity =
            Identity::from_workload_api(Some(&workload.workload_endpoint()), options).await.unwrap();
        let tls =
            ServerTls::new(&identity, &[TrustDomain::new("prod.test").unwrap()], Speaks::Http2).unwrap();
        let listener = UnixListener::bind(world.path("mtls.sock")).unwrap();
        let incoming = Incoming::new(listener, tls, IncomingLimits::default());
        let router = world.broker.router();
        tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        workload
    })
}

fn ask(world: &World, workload: &Server, broker_id: &str, args: &[&str]) -> Done {
    let broker = format!("unix:{}", world.path("mtls.sock").display());
    let mut command = world.dayfly(args);
    command.args(["--broker", &broker, "--broker-id", broker_id]);
    command.env("SPIFFE_ENDPOINT_SOCKET", workload.workload_endpoint());
    Done::of(command.output().unwrap())
}

#[test]
fn an_admin_reaches_the_broker_with_its_own_svid() {
    let world = World::new();
    let workload = serve(&world);
    let done = ask(&world, &workload, BROKER, &["scope", "list"]);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    assert!(done.out.contains("s3-train-read"), "{}", done.out);

    let done = ask(&world, &workload, BROKER, &["whoami"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.out.lines().any(|line| line == format!("spiffe id  {ADMIN}")), "{}", done.out);
}

#[test]
fn a_broker_of_another_identity_is_not_spoken_to() {
    let world = World::new();
    let workload = serve(&world);
    let done = ask(&world, &workload, "spiffe://prod.test/dayfly/other", &["revoke", "--task", "01JZX0T1"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.err.contains(BROKER), "it says who answered: {}", done.err);
    world.broker.with(|state| assert!(state.revoke_asked.is_empty()));
}

#[test]
fn temporary_access_is_requested_and_decided_as_it_was_shown() {
    let world = World::new();
    let workload = serve(&world);
    let dayfly = |args: &[&str]| ask(&world, &workload, BROKER, args);
    let request = [
        "request",
        "--spiffe-id",
        "spiffe://prod.example/x",
        "--scope",
        "prod-db",
        "--param",
        "table=users",
        "--for",
        "2h",
        "--ticket",
        "OPS-1",
        "--reason",
        "it broke",
    ];
    let done = dayfly(&request);
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{done:?}");
    golden("request.txt", &done.out);
    world.broker.with(|state| {
        let asked = &state.approvals.requested[0];
        let scope = asked.scope.as_ref().unwrap();
        assert_eq!((scope.scope.as_str(), scope.parameters["table"].as_str()), ("prod-db", "users"));
        assert_eq!(asked.end, Some(End::Duration(prost_types::Duration { seconds: 7200, nanos: 0 })));
        assert_eq!((asked.ticket.as_str(), asked.reason.as_str()), ("OPS-1", "it broke"));
    });
    assert_eq!(dayfly(&request[..7]).code, Some(2), "an end and a reason are needed");

    let done = dayfly(&["approve", "01JZX0A1"]);
    assert_eq!(done.code, Some(1), "nobody said yes: {done:?}");
    golden("approve_unasked.txt", &done.out);
    world.broker.with(|state| assert!(state.approvals.decided.is_empty()));
    let done = dayfly(&["approve", "01JZX0A1", "--yes"]);
    assert!(done.code == Some(0) && done.out.contains("approved"), "{done:?}");
    let done = dayfly(&["approve", "01JZX0A1", "--yes", "--digest", "d0", "-o", "json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    golden("approve.json", &done.out);
    assert!(dayfly(&["refuse", "01JZX0A1"]).out.contains("refused"));
    world.broker.with(|state| {
        let said: Vec<_> =
            state.approvals.decided.iter().map(|one| (one.verdict(), one.digest.as_str())).collect();
        assert_eq!(said, [(Verdict::Approve, "d1"), (Verdict::Approve, "d0"), (Verdict::Refuse, "")]);
    });
    golden("withdraw.txt", &dayfly(&["withdraw", "01JZX0A1"]).out);
    golden("approvals.txt", &dayfly(&["approvals", "--all"]).out);
    world.broker.with(|state| assert!(state.approvals.listed[0].include_over));

    let done = world.admin(&["approve", "01JZX0A1", "--yes"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("the break-glass socket knows no approvals"), "{}", done.err);
}

#[test]
fn a_key_is_taken_out_only_after_a_yes_and_what_follows_is_told() {
    let world = World::new();
    let workload = serve(&world);
    let dayfly = |args: &[&str]| ask(&world, &workload, BROKER, args);
    golden("key_list.txt", &dayfly(&["key", "list"]).out);
    golden("key_list.json", &dayfly(&["key", "list", "-o", "json"]).out);
    assert_eq!(dayfly(&["key", "rotate", "federation"]).code, Some(0));
    world.broker.with(|state| assert_eq!(state.keys.rotated, ["federation"]));
    assert_eq!(dayfly(&["key", "rotate", "audit"]).code, Some(2), "there is no such use");
    golden("key_retire.txt", &dayfly(&["key", "retire", "k3"]).out);

    let done = dayfly(&["key", "compromise", "k2"]);
    assert_eq!(done.code, Some(1), "nobody said yes: {done:?}");
    golden("key_compromise_unasked.txt", &done.out);
    assert_eq!(dayfly(&["key", "compromise", "k2", "--dry-run"]).out, done.out);
    world.broker.with(|state| assert!(state.keys.compromised.iter().all(|asked| asked.dry_run)));
    let done = dayfly(&["key", "compromise", "k2", "--yes", "--reason", "it leaked", "-o", "json"]);
    assert_eq!(done.code, Some(0), "{done:?}");
    golden("key_compromise.json", &done.out);
    world.broker.with(|state| {
        let asked = state.keys.compromised.last().unwrap();
        assert_eq!((asked.kid.as_str(), asked.dry_run, asked.reason.as_str()), ("k2", false, "it leaked"));
    });

    let done = world.admin(&["key", "list"]);
    assert_eq!(done.code, Some(2), "{done:?}");
    assert!(done.err.contains("the break-glass socket knows no signing keys"), "{}", done.err);
}
