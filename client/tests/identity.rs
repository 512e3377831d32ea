//! Identities from a Workload API: which one, when there is none, and what rotation and withdrawal do to it.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::time::{Duration, SystemTime};

use dayfly_client::{Health, Identity, IdentityError, IdentityOptions, JwtError, Pick, SpiffeId, chain};
use dayfly_devspiffe::{
    Authority, Server,
    wrong::{self, WrongJwt},
};
use support::{BROKER, Domain, TRAINER, domain, me, until};

const AUDIENCE: &str = "spiffe://prod.test/dayfly/broker";

fn within(time: Duration, pick: Pick) -> IdentityOptions {
    IdentityOptions { initial_sync_timeout: time, pick }
}

async fn ask(server: &Server, time: Duration, pick: Pick) -> Result<Identity, IdentityError> {
    Identity::from_workload_api(Some(&server.workload_endpoint()), within(time, pick)).await
}

const SHORT: Duration = Duration::from_millis(600);
const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_only_svid_is_the_identity() {
    let domain = Domain::new(&[TRAINER]).await;
    let identity = ask(&domain.server, LONG, Pick::Sole).await.unwrap();
    assert_eq!(identity.spiffe_id().to_string(), TRAINER);
    let leaf = identity.leaf().unwrap();
    assert_eq!(identity.health(), Health::Fresh { until: leaf.not_after });
    assert!(leaf.is_fresh(SystemTime::now()));
}

#[tokio::test]
async fn several_svids_are_an_error_that_lists_them_unless_one_is_named() {
    let domain = Domain::new(&[BROKER]).await;
    domain.server.add_entry(me(TRAINER).hint("train")).unwrap();

    let error = ask(&domain.server, LONG, Pick::Sole).await.unwrap_err();
    assert!(matches!(error, IdentityError::Several { .. }), "{error:?}");
    assert!(error.to_string().contains(BROKER) && error.to_string().contains(TRAINER), "{error}");

    let by_id = Pick::Id(SpiffeId::new(TRAINER).unwrap());
    for pick in [by_id, Pick::Hint("train".into())] {
        assert_eq!(ask(&domain.server, LONG, pick).await.unwrap().spiffe_id().to_string(), TRAINER);
    }
    let other = Pick::Id(SpiffeId::new("spiffe://prod.test/other").unwrap());
    let error = ask(&domain.server, LONG, other).await.unwrap_err();
    assert!(
        matches!(error, IdentityError::NotOffered { .. }) && error.to_string().contains(TRAINER),
        "{error}"
    );
}

#[tokio::test]
async fn two_entries_of_one_spiffe_id_are_one_identity() {
    let domain = Domain::new(&[TRAINER, TRAINER]).await;
    assert_eq!(ask(&domain.server, LONG, Pick::Sole).await.unwrap().spiffe_id().to_string(), TRAINER);
}

#[tokio::test]
async fn without_an_entry_the_error_says_who_asked() {
    let domain = Domain::new(&[]).await;
    let error = ask(&domain.server, SHORT, Pick::Sole).await.unwrap_err();
    let IdentityError::NoEntry { uid, exe, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*uid, rustix::process::geteuid().as_raw());
    assert_eq!(*exe, std::env::current_exe().unwrap().display().to_string());
    assert!(error.to_string().contains("no registration entry matches"), "{error}");
}

#[tokio::test]
async fn an_entry_that_comes_late_is_waited_for() {
    let domain = Domain::new(&[]).await;
    let (identity, ()) = tokio::join!(ask(&domain.server, LONG, Pick::Sole), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        domain.server.add_entry(me(TRAINER)).unwrap();
    });
    assert_eq!(identity.unwrap().spiffe_id().to_string(), TRAINER);
}

#[tokio::test]
async fn a_workload_api_that_is_not_there_is_told_from_one_that_cannot_be() {
    let home = tempfile::tempdir().unwrap();
    let nobody = format!("unix:{}", home.path().join("nobody.sock").display());
    let error = Identity::from_workload_api(Some(&nobody), within(SHORT, Pick::Sole)).await.unwrap_err();
    assert!(matches!(error, IdentityError::Unreachable { source: Some(_), .. }), "{error:?}");

    let started = SystemTime::now();
    let error =
        Identity::from_workload_api(Some("ftp://nowhere"), within(LONG, Pick::Sole)).await.unwrap_err();
    assert!(matches!(error, IdentityError::Unusable { .. }), "{error:?}");
    assert!(started.elapsed().unwrap() < LONG / 2, "waiting cannot mend a bad endpoint");
}

#[tokio::test]
async fn rotation_changes_the_certificate_and_never_the_name() {
    let domain = Domain::new(&[TRAINER]).await;
    let identity = ask(&domain.server, LONG, Pick::Sole).await.unwrap();
    let first = identity.leaf().unwrap();

    let mut updates = identity.updates();
    domain.server.rotate_now();
    updates.changed().await.unwrap();
    let second = identity.leaf().unwrap();
    assert_ne!(first.serial, second.serial);

    // An entry that appears later, and first in order, does not make this process somebody else.
    domain.server.set_entries(vec![me(BROKER), me(TRAINER)]).unwrap();
    updates.changed().await.unwrap();
    assert_eq!(identity.leaf().unwrap().spiffe_id.to_string(), TRAINER);

    domain.server.set_entries(vec![me(BROKER)]).unwrap();
    until("the identity is lost", || identity.health() == Health::Lost).await;
}

#[tokio::test]
async fn withdrawal_shows_and_ends() {
    let domain = Domain::new(&[TRAINER]).await;
    let identity = ask(&domain.server, LONG, Pick::Sole).await.unwrap();
    domain.server.withdraw(identity.spiffe_id());
    until("the withdrawal", || identity.withdrawn()).await;
    assert!(identity.leaf().is_err());

    domain.server.add_entry(me(TRAINER)).unwrap();
    until("the return", || matches!(identity.health(), Health::Fresh { .. })).await;
}

#[tokio::test]
async fn an_own_jwt_proves_the_identity_to_its_sole_audience() {
    let prod = Domain::new(&[TRAINER]).await;
    let identity = ask(&prod.server, LONG, Pick::Sole).await.unwrap();
    let accepted = [domain("prod.test")];

    let own = identity.jwt_svid(AUDIENCE).await.unwrap();
    assert!(own.expires_at > SystemTime::now());
    assert!(!format!("{own:?}").contains(own.token.as_str()));

    let proven = identity.verify_jwt_svid(&own.token, AUDIENCE, &accepted).await.unwrap();
    assert_eq!((proven.spiffe_id.to_string(), proven.expires_at), (TRAINER.to_owned(), own.expires_at));

    let elsewhere =
        identity.verify_jwt_svid(&own.token, AUDIENCE, &[domain("other.test")]).await.unwrap_err();
    assert!(matches!(elsewhere, JwtError::TrustDomain { .. }), "{elsewhere:?}");
    let replayed =
        identity.verify_jwt_svid(&own.token, "spiffe://prod.test/vault", &accepted).await.unwrap_err();
    assert!(matches!(replayed, JwtError::Invalid { .. }), "{replayed:?}");
}

#[tokio::test]
async fn wrong_jwts_prove_nothing_and_are_not_repeated_in_errors() {
    let prod = Domain::new(&[TRAINER]).await;
    let identity = ask(&prod.server, LONG, Pick::Sole).await.unwrap();
    for how in WrongJwt::ALL {
        let token = wrong::jwt(prod.server.authority(), identity.spiffe_id(), AUDIENCE, how).unwrap();
        let verified = identity.verify_jwt_svid(&token, AUDIENCE, &[domain("prod.test")]).await;
        // JWT-SVID says nothing of `iat`, and its `exp` bounds the token all the same.
        if how == WrongJwt::FutureIssuedAt {
            assert!(verified.is_ok(), "{verified:?}");
            continue;
        }
        let error = verified.expect_err(&format!("{how:?} was accepted"));
        assert_eq!(
            how == WrongJwt::TwoAudiences,
            matches!(error, JwtError::NotSole { .. }),
            "{how:?}: {error:?}"
        );
        for part in token.split('.').filter(|part| !part.is_empty()) {
            assert!(
                !chain(&error).contains(part) && !format!("{error:?}").contains(part),
                "{how:?}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_jwt_of_a_federated_domain_counts_only_where_it_is_accepted() {
    let prod = Domain::new(&[TRAINER]).await;
    let partner = Authority::in_memory("partner.test").unwrap();
    prod.server.federate_with([partner.clone()]);
    let identity = ask(&prod.server, LONG, Pick::Sole).await.unwrap();
    let id = SpiffeId::new("spiffe://partner.test/training/trainer").unwrap();
    let token = partner.jwt_svid(&id, &[AUDIENCE], Duration::from_secs(60)).unwrap();

    let both = [domain("prod.test"), domain("partner.test")];
    assert_eq!(identity.verify_jwt_svid(token.token(), AUDIENCE, &both).await.unwrap().spiffe_id, id);
    let refused = identity.verify_jwt_svid(token.token(), AUDIENCE, &both[..1]).await.unwrap_err();
    assert!(matches!(refused, JwtError::TrustDomain { .. }), "{refused:?}");
}
