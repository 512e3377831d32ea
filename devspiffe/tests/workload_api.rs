//! The `spiffe` crate's own clients against the Workload API.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::time::Duration;

use dayfly_devspiffe::{Authority, Entry};
use spiffe::{JwtSource, JwtSvid, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Source};
use support::{PATIENCE, SELF_ID, builder, entry_for_self, eventually, id, serve};
use tempfile::tempdir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

async fn source(endpoint: &str) -> X509Source {
    X509Source::builder().endpoint(endpoint).initial_sync_timeout(PATIENCE).build().await.unwrap()
}

#[tokio::test]
async fn a_process_gets_the_svid_of_its_entry_and_the_root_that_signed_it() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let source = source(&server.workload_endpoint()).await;
    let svid = source.svid().unwrap();
    assert_eq!(svid.spiffe_id(), &id(SELF_ID));

    let bundle = source.bundle_set().unwrap().get(&TrustDomain::new("dev.test").unwrap()).unwrap();
    let root = bundle.authorities()[0].as_bytes();
    assert_eq!(root, server.authority().roots_der()[0]);
    let (_, root) = X509Certificate::from_der(root).unwrap();
    let (_, leaf) = X509Certificate::from_der(svid.leaf().as_bytes()).unwrap();
    assert_eq!(leaf.issuer(), root.subject());

    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert!(matches!(names[..], [GeneralName::URI(SELF_ID)]), "exactly one name: {names:?}");
    let usage = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth);
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert!((3610..=3611).contains(&life), "an hour, and ten seconds backwards: {life}");
}

#[tokio::test]
async fn an_entry_may_add_dns_names() {
    let home = tempdir().unwrap();
    let server =
        builder(&home).entry(entry_for_self(SELF_ID).dns("a.test").dns("b.test")).start().await.unwrap();
    let svid = source(&server.workload_endpoint()).await.svid().unwrap();
    assert_eq!(svid.spiffe_id(), &id(SELF_ID));
    let (_, leaf) = X509Certificate::from_der(svid.leaf().as_bytes()).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
    assert!(
        matches!(
            names[..],
            [GeneralName::URI(SELF_ID), GeneralName::DNSName("a.test"), GeneralName::DNSName("b.test")]
        ),
        "{names:?}"
    );
}

#[tokio::test]
async fn an_svid_is_renewed_at_half_of_its_life() {
    let home = tempdir().unwrap();
    let short = entry_for_self(SELF_ID).ttl(Duration::from_secs(2));
    let server = builder(&home).entry(short).start().await.unwrap();
    let source = source(&server.workload_endpoint()).await;
    let first = source.svid().unwrap();
    let begun = std::time::Instant::now();
    eventually("a new certificate", || source.svid().unwrap().leaf() != first.leaf()).await;
    let waited = begun.elapsed();
    assert!(waited > Duration::from_millis(700) && waited < Duration::from_millis(1900), "{waited:?}");
}

#[tokio::test]
async fn all_streams_of_an_identity_get_the_same_svid() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let first = client.fetch_x509_svid().await.unwrap();
    server.add_entry(entry_for_self("spiffe://dev.test/training/second")).unwrap();
    assert_eq!(
        client.fetch_x509_svid().await.unwrap().leaf(),
        first.leaf(),
        "others' changes do not renew it"
    );

    server.rotate_now();
    assert_ne!(client.fetch_x509_svid().await.unwrap().leaf(), first.leaf());
}

#[tokio::test]
async fn a_rotation_of_the_authority_reaches_open_streams_with_both_roots() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let source = source(&server.workload_endpoint()).await;
    let trust_domain = TrustDomain::new("dev.test").unwrap();
    let roots = || source.bundle_set().unwrap().get(&trust_domain).unwrap().authorities().len();
    let before = source.svid().unwrap();

    server.rotate_now();
    eventually("new keys, same root", || source.svid().unwrap().leaf() != before.leaf() && roots() == 1)
        .await;

    server.rotate_ca().unwrap();
    eventually("both roots", || roots() == 2).await;
    let new_root = server.authority().roots_der().pop().unwrap();
    let (_, new_root) = X509Certificate::from_der(&new_root).unwrap();
    eventually("an SVID of the new root", || {
        let svid = source.svid().unwrap();
        let (_, leaf) = X509Certificate::from_der(svid.leaf().as_bytes()).unwrap();
        leaf.issuer() == new_root.subject()
    })
    .await;

    server.authority().retire_old().unwrap();
    eventually("the old root is gone", || roots() == 1).await;
}

#[tokio::test]
async fn a_process_without_an_entry_is_refused_everything() {
    let home = tempdir().unwrap();
    let stranger = Entry::new(SELF_ID).unwrap().uid(4_242_424);
    let elsewhere = entry_for_self(SELF_ID).path("/bin/cat");
    let server = builder(&home).entry(stranger).entry(elsewhere).start().await.unwrap();
    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let refusals = [
        client.fetch_x509_svid().await.unwrap_err(),
        client.fetch_x509_bundles().await.unwrap_err(),
        client.fetch_jwt_svid(["broker"], None).await.unwrap_err(),
        client.fetch_jwt_bundles().await.unwrap_err(),
    ];
    for refusal in refusals {
        assert!(matches!(refusal, WorkloadApiError::NoIdentityIssued), "{refusal:?}");
    }
}

#[tokio::test]
async fn entries_change_under_open_streams() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let source = source(&server.workload_endpoint()).await;

    let second = "spiffe://dev.test/training/second";
    server.add_entry(entry_for_self(second).hint("second")).unwrap();
    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let all = client.fetch_all_x509_svids().await.unwrap();
    let seen: Vec<_> = all.iter().map(|svid| (svid.spiffe_id().to_string(), svid.hint())).collect();
    assert_eq!(seen, [(SELF_ID.to_owned(), None), (second.to_owned(), Some("second"))]);

    assert_eq!(server.withdraw(&id(SELF_ID)), 1);
    eventually("the second is the first now", || {
        source.svid().is_ok_and(|svid| svid.spiffe_id() == &id(second))
    })
    .await;

    assert_eq!(server.withdraw(&id(second)), 1);
    eventually("nothing is left", || source.svid().is_err()).await;
    assert_eq!(server.withdraw(&id(second)), 0);
}

#[tokio::test]
async fn jwt_svids_verify_offline_and_through_the_server() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let source = JwtSource::builder().endpoint(server.workload_endpoint()).build().await.unwrap();
    let token = source.fetch_jwt_svid(&["broker"]).await.unwrap();
    let verified = JwtSvid::parse_and_validate(token.token(), &source, &["broker"]).unwrap();
    assert_eq!(verified.spiffe_id(), &id(SELF_ID));
    assert_eq!(verified.audience(), ["broker"]);
    assert!(JwtSvid::parse_and_validate(token.token(), &source, &["another"]).is_err());

    server.rotate_ca().unwrap();
    let newer = source.fetch_jwt_svid(&["broker"]).await.unwrap();
    assert_ne!(newer.key_id(), token.key_id());
    let is_accepted =
        |token: &JwtSvid| JwtSvid::parse_and_validate(token.token(), &source, &["broker"]).is_ok();
    eventually("old and new are accepted", || is_accepted(&token) && is_accepted(&newer)).await;

    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let validated = client.validate_jwt_token("broker", newer.token()).await.unwrap();
    assert_eq!(validated.spiffe_id(), &id(SELF_ID));
    assert!(client.validate_jwt_token("another", newer.token()).await.is_err());

    server.authority().retire_old().unwrap();
    assert!(client.validate_jwt_token("broker", token.token()).await.is_err(), "its key is retired");
    eventually("what the retired key signed is refused", || !is_accepted(&token) && is_accepted(&newer))
        .await;
}

#[tokio::test]
async fn a_jwt_svid_can_be_asked_for_one_spiffe_id() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let second = "spiffe://dev.test/training/second";
    server.add_entry(entry_for_self(second)).unwrap();
    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let svid = client.fetch_jwt_svid(["broker"], Some(&id(second))).await.unwrap();
    assert_eq!(svid.spiffe_id(), &id(second));
    let foreign = id("spiffe://dev.test/admin/root");
    let refused = client.fetch_jwt_svid(["broker"], Some(&foreign)).await.unwrap_err();
    assert!(matches!(refused, WorkloadApiError::NoIdentityIssued), "{refused:?}");
}

#[tokio::test]
async fn bundles_of_federated_trust_domains_are_handed_out() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let other = Authority::in_memory("partner.example").unwrap();
    server.federate_with([other.clone()]);
    let partner = TrustDomain::new("partner.example").unwrap();

    let source = source(&server.workload_endpoint()).await;
    let bundle = source.bundle_set().unwrap().get(&partner).unwrap();
    assert_eq!(bundle.authorities()[0].as_bytes(), other.roots_der()[0]);

    let client = WorkloadApiClient::connect_to(server.workload_endpoint()).await.unwrap();
    let theirs = id("spiffe://partner.example/tool/x");
    let token = other.jwt_svid(&theirs, &["broker"], Duration::from_secs(60)).unwrap();
    assert_eq!(client.validate_jwt_token("broker", token.token()).await.unwrap().spiffe_id(), &theirs);
}

#[tokio::test]
async fn a_call_without_the_security_header_is_refused() {
    let home = tempdir().unwrap();
    let server = serve(&home).await;
    let endpoint = server.workload_endpoint().parse().unwrap();
    let mut raw = tonic::client::Grpc::new(spiffe::transport::connect(&endpoint).await.unwrap());
    for (header, expected) in
        [(None, "security header missing from request"), (Some("false"), "security header")]
    {
        let mut request = tonic::Request::new(());
        if let Some(value) = header {
            request.metadata_mut().insert("workload.spiffe.io", value.parse().unwrap());
        }
        raw.ready().await.unwrap();
        let path = "/SpiffeWorkloadAPI/FetchX509SVID".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        let refused = raw.server_streaming(request, path, codec).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn a_stopped_server_can_be_started_again_in_its_place() {
    let home = tempdir().unwrap();
    let authority = Authority::in_memory("dev.test").unwrap();
    let start = || {
        dayfly_devspiffe::Server::builder(authority.clone())
            .workload_socket(home.path().join("workload.sock"))
            .entry(entry_for_self(SELF_ID))
            .start()
    };
    let server = start().await.unwrap();
    let source = source(&server.workload_endpoint()).await;
    let first = source.svid().unwrap();
    server.stop().await;
    assert!(!home.path().join("workload.sock").exists());
    assert_eq!(source.svid().unwrap().leaf(), first.leaf(), "what was issued is still good");

    let _again = start().await.unwrap();
    eventually("the source has come back", || source.svid().unwrap().leaf() != first.leaf()).await;
}
