//! The admins' verbs over mTLS, with identities from a development Workload API.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use dayfly_client::{
    Identity, IdentityOptions, Incoming, IncomingLimits, Pick, ServerTls, Speaks, SpiffeId, TrustDomain,
};
use dayfly_devspiffe::{Authority, Entry, Server};
use support::{Done, World};
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
