//! The `spire-api` crate's own client against the Delegated Identity API.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::time::Duration;

use dayfly_devspiffe::{Entry, Server};
use spiffe::JwtSvid;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spire_api::agent::delegated_identity::{
    DelegateAttestationRequest as Request, DelegatedIdentityClient, DelegatedIdentityError,
};
use spire_api::selectors::Selector;
use support::{SELF_ID, Workload, builder, entry_for_self, id};
use tempfile::{TempDir, tempdir};
use tokio_stream::StreamExt;

const CAT_ID: &str = "spiffe://dev.test/training/cat";

/// The test program is the delegate; whatever runs `/bin/cat` as this user is [`CAT_ID`].
async fn serve(home: &TempDir) -> (Server, DelegatedIdentityClient) {
    let uid = nix::unistd::geteuid().as_raw();
    let server = builder(home)
        .entry(entry_for_self(SELF_ID))
        .entry(Entry::new(CAT_ID).unwrap().uid(uid).path("/bin/cat").hint("cat"))
        .authorized_delegate(id(SELF_ID))
        .start()
        .await
        .unwrap();
    let client = DelegatedIdentityClient::connect_to(server.admin_endpoint().unwrap()).await.unwrap();
    (server, client)
}

fn of(workload: &Workload) -> Request {
    Request::for_pid(workload.pid()).unwrap()
}

#[track_caller]
fn assert_refused(error: DelegatedIdentityError, code: GrpcStatusCode, words: &str) {
    let DelegatedIdentityError::Transport(TransportError::Status(status)) = error else {
        panic!("not a status: {error:?}");
    };
    assert_eq!(status.code(), code);
    assert!(status.message().contains(words), "{status:?}");
}

#[tokio::test]
async fn a_delegate_gets_the_svids_of_the_process_it_names() {
    let home = tempdir().unwrap();
    let (_server, client) = serve(&home).await;
    let cat = Workload::start("/bin/cat");

    let svids = client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap();
    assert_eq!(svids.len(), 1);
    assert_eq!((svids[0].spiffe_id(), svids[0].hint()), (&id(CAT_ID), Some("cat")));
    let bundles = client.fetch_jwt_bundles().await.unwrap();
    JwtSvid::parse_and_validate(svids[0].token(), &bundles, &["broker"]).unwrap();

    let svid = client.fetch_x509_svid(of(&cat)).await.unwrap();
    assert_eq!(svid.spiffe_id(), &id(CAT_ID));
    assert_eq!(client.fetch_x509_bundles().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_process_without_an_entry_or_without_a_life_has_no_identity() {
    let home = tempdir().unwrap();
    let (_server, client) = serve(&home).await;
    let tail = Workload::start("/usr/bin/tail");
    let refused = client.fetch_jwt_svids(&["broker"], of(&tail)).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "no identity issued");

    let mut cat = Workload::start("/bin/cat");
    client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap();
    cat.end();
    let refused = client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "no identity issued");
}

#[tokio::test]
async fn only_an_authorized_delegate_may_ask() {
    let home = tempdir().unwrap();
    let (server, client) = serve(&home).await;
    let cat = Workload::start("/bin/cat");

    server.set_authorized_delegates([id("spiffe://dev.test/node/another")]);
    let refused = client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "not configured as an authorized delegate");
    let refused = client.fetch_x509_svid(of(&cat)).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "not configured as an authorized delegate");
    let refused = client.fetch_jwt_bundles().await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "not configured as an authorized delegate");

    server.set_authorized_delegates([id(SELF_ID)]);
    client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap();
    server.withdraw(&id(SELF_ID));
    let refused = client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "no identity issued");
}

#[tokio::test]
async fn a_delegate_loses_open_streams_with_its_right() {
    let home = tempdir().unwrap();
    let (server, client) = serve(&home).await;
    let cat = Workload::start("/bin/cat");
    let mut svids = Box::pin(client.stream_x509_svids(of(&cat)).await.unwrap());
    assert_eq!(svids.next().await.unwrap().unwrap().spiffe_id(), &id(CAT_ID));

    server.rotate_now();
    assert_eq!(svids.next().await.unwrap().unwrap().spiffe_id(), &id(CAT_ID));
    server.set_authorized_delegates([]);
    let end = svids.next().await.unwrap().unwrap_err();
    assert_refused(end, GrpcStatusCode::PermissionDenied, "not configured as an authorized delegate");
}

#[tokio::test]
async fn selectors_stand_for_a_process_that_the_delegate_attested() {
    let home = tempdir().unwrap();
    let (server, client) = serve(&home).await;
    let uid = nix::unistd::geteuid().as_raw();
    let path = std::fs::canonicalize("/bin/cat").unwrap();
    let unix = |value: String| Selector::Generic(("unix".to_owned(), value));
    let whole = vec![unix(format!("uid:{uid}")), unix(format!("path:{}", path.display()))];

    let svids =
        client.fetch_jwt_svids(&["broker"], Request::for_selectors(whole.clone()).unwrap()).await.unwrap();
    assert_eq!(svids[0].spiffe_id(), &id(CAT_ID));
    let part = Request::for_selectors(whole[..1].to_vec()).unwrap();
    let refused = client.fetch_jwt_svids(&["broker"], part).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::PermissionDenied, "no identity issued");
    let broken = Request::for_selectors(vec![unix("uid:root".to_owned())]).unwrap();
    let refused = client.fetch_jwt_svids(&["broker"], broken).await.unwrap_err();
    assert_refused(refused, GrpcStatusCode::InvalidArgument, "could not parse provided selectors");
    drop(server);
}

#[tokio::test]
async fn the_life_of_a_jwt_svid_is_the_entrys() {
    let home = tempdir().unwrap();
    let (server, client) = serve(&home).await;
    let short = Entry::new(CAT_ID).unwrap().path("/bin/cat").ttl(Duration::from_secs(2));
    server.set_entries(vec![entry_for_self(SELF_ID), short]).unwrap();
    let cat = Workload::start("/bin/cat");
    let svids = client.fetch_jwt_svids(&["broker"], of(&cat)).await.unwrap();
    let left =
        std::time::SystemTime::from(svids[0].expiry()).duration_since(std::time::SystemTime::now()).unwrap();
    assert!(left > Duration::from_millis(1500) && left <= Duration::from_secs(3), "{left:?}");
}
