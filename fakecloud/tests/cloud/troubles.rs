//! Misbehaviour is what the test asked for, no more.

use std::time::{Duration, Instant};

use dayfly_fakecloud::{Fault, Trouble};

use crate::world::{ROLE, World, claims};

const NOTHING: &str =
    r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Action":"*","Resource":"*"}]}"#;

fn fault(action: &str, trouble: Trouble, times: u32) -> Fault {
    Fault { action: action.into(), trouble, times: Some(times) }
}

#[tokio::test]
async fn a_lost_answer_is_of_a_thing_done_and_a_lost_request_of_one_not_done() {
    let world = World::new();
    let revoker = world.revoker();
    let params = [("RoleName", ROLE), ("PolicyName", "dayfly-revoked"), ("PolicyDocument", NOTHING)];
    for (trouble, is_done) in [(Trouble::LoseRequest, false), (Trouble::LoseAnswer, true)] {
        world.cloud.fault(fault("iam:PutRolePolicy", trouble, 1));
        assert!(revoker.try_iam("PutRolePolicy", &params).await.is_err(), "{trouble:?}");
        assert_eq!(world.cloud.role_policy(ROLE, "dayfly-revoked").is_some(), is_done, "{trouble:?}");
    }
    assert_eq!(revoker.iam("PutRolePolicy", &params).await.status, 200);
    let asked = world.cloud.asked();
    let seen: Vec<_> = asked.iter().map(|asked| (asked.action.as_str(), asked.trouble)).collect();
    let put = "iam:PutRolePolicy";
    assert_eq!(seen, [(put, Some(Trouble::LoseRequest)), (put, Some(Trouble::LoseAnswer)), (put, None)]);
    assert!(asked[2].resource.ends_with(":role/dayfly/s3-train-read") && asked[2].refused.is_none());
    assert_eq!(asked[2].who.as_deref(), Some("arn:aws:sts::111122223333:assumed-role/revoker/r1"));
}

#[tokio::test]
async fn throttling_failures_and_delays_strike_as_often_as_asked() {
    let world = World::new();
    let (revoker, task) = (world.revoker(), world.in_slot("aB3"));
    world.cloud.fault(fault("iam:*", Trouble::Throttle, 2));
    world.cloud.fault(fault("iam:*", Trouble::Fail(503), 1));
    world.cloud.fault(fault("s3:GetObject", Trouble::Throttle, 1));
    let mut seen = Vec::new();
    for _ in 0..4 {
        let said = revoker.iam("GetRole", &[("RoleName", ROLE)]).await;
        seen.push((said.status, said.code().to_owned()));
    }
    let expected = [(400, "Throttling"), (400, "Throttling"), (503, "InternalFailure"), (200, "none")];
    assert_eq!(seen, expected.map(|(status, code)| (status, code.to_owned())));
    assert_eq!(task.s3("GET", "/corpus-7/a").await.code(), "SlowDown");

    world.cloud.fault(fault("iam:PutRolePolicy", Trouble::Slow(2_000), 1));
    let put = tokio::spawn(async move { revoker.put_policy(ROLE, NOTHING).await });
    let from = Instant::now();
    while task.reads().await {
        assert!(from.elapsed() < Duration::from_secs(10), "it was never done");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!put.is_finished(), "it is told later than it is done");
    assert_eq!(put.await.unwrap().status, 200);
}

#[tokio::test]
async fn more_than_the_rate_is_throttled() {
    let world = World::new();
    world.cloud.set(|settings| settings.rates = [("sts:*".to_owned(), 1)].into());
    let call = || {
        let sts = world.sts(None).assume_role_with_web_identity().role_arn(crate::world::ROLE_ARN);
        sts.role_session_name("lease-1").web_identity_token(world.sign(&claims())).send()
    };
    let (mut taken, mut throttled) = (0, 0);
    // A second may begin between two of them.
    while taken == 0 || throttled == 0 {
        assert!(taken + throttled < 100, "{taken} {throttled}");
        match call().await {
            Ok(_) => taken += 1,
            Err(error) => {
                assert!(format!("{error:?}").contains("Throttling"), "{error:?}");
                throttled += 1;
            }
        }
    }
}
