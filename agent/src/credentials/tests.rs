//! Whose lease is whose, and what is dropped when.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::*;

fn class(id: &str, exe: u64, uid: u32, cgroup: u64) -> Class {
    Class {
        spiffe_id: SpiffeId::new(format!("spiffe://prod.example/{id}")).unwrap(),
        exe: (1, exe),
        uid,
        gid: uid,
        cgroup_id: Some(cgroup),
    }
}

fn lease(id: &str, seconds: u64) -> Arc<Lease> {
    let credential = Credential::Token { access_token: Zeroizing::new("secret".to_owned()) };
    let expires_at = SystemTime::now() + Duration::from_secs(seconds);
    Arc::new(Lease {
        id: id.to_owned(),
        credential: Arc::new(credential),
        expires_at,
        refresh_at: expires_at,
        rules_digest: String::new(),
    })
}

#[test]
fn each_identity_program_user_cgroup_and_provider_has_a_place_of_its_own() {
    let credentials = Credentials::default();
    let first = credentials.slot(Provider::Aws, class("a", 1, 1000, 7)).unwrap();
    assert!(first.keep(lease("l", 60)));
    let same = credentials.slot(Provider::Aws, class("a", 1, 1000, 7)).unwrap();
    assert_eq!(same.lease(SystemTime::now()).unwrap().id, "l");
    let others = [
        (Provider::Vault, class("a", 1, 1000, 7)),
        (Provider::Aws, class("b", 1, 1000, 7)),
        (Provider::Aws, class("a", 2, 1000, 7)),
        (Provider::Aws, class("a", 1, 1001, 7)),
        (Provider::Aws, class("a", 1, 1000, 8)),
    ];
    for (provider, class) in others {
        let slot = credentials.slot(provider, class.clone()).unwrap();
        assert!(slot.lease(SystemTime::now()).is_none(), "{class:?}");
    }
}

#[test]
fn what_is_about_to_run_out_is_not_handed_out() {
    let slot = Slot::default();
    slot.keep(lease("l", 4));
    assert!(slot.lease(SystemTime::now()).is_none());
    slot.keep(lease("l", 60));
    assert!(slot.lease(SystemTime::now()).is_some());
}

#[test]
fn a_credential_that_comes_after_the_end_is_not_kept() {
    let credentials = Credentials::default();
    let slot = credentials.slot(Provider::Token, class("a", 1, 1, 1)).unwrap();
    slot.keep(lease("l", 60));
    credentials.close();
    assert!(slot.lease(SystemTime::now()).is_none());
    assert!(!slot.keep(lease("late", 60)));
    assert!(slot.lease(SystemTime::now()).is_none());
    assert!(credentials.slot(Provider::Token, class("a", 1, 1, 1)).is_none());
}

#[test]
fn a_revoked_lease_is_dropped_and_its_neighbour_is_not() {
    let credentials = Credentials::default();
    let one = credentials.slot(Provider::Token, class("a", 1, 1, 1)).unwrap();
    let two = credentials.slot(Provider::Token, class("b", 1, 1, 1)).unwrap();
    one.keep(lease("one", 60));
    two.keep(lease("two", 60));
    assert!(credentials.drop_lease("one"));
    assert!(!credentials.drop_lease("one"));
    assert!(one.lease(SystemTime::now()).is_none());
    assert!(two.lease(SystemTime::now()).is_some());
}

#[test]
fn a_task_has_a_bounded_number_of_places() {
    let credentials = Credentials::default();
    for exe in 0..MOST_CLASSES as u64 {
        assert!(credentials.slot(Provider::Aws, class("a", exe, 1, 1)).is_some());
    }
    assert!(credentials.slot(Provider::Aws, class("a", 9999, 1, 1)).is_none());
    assert!(credentials.slot(Provider::Aws, class("a", 0, 1, 1)).is_some(), "known places stay open");
}

#[test]
fn no_credential_is_shown() {
    assert!(!format!("{:?}", lease("l", 1)).contains("secret"));
}
