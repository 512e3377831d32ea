//! What one batch holds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

/// Waits in a queue and does nothing.
struct Waits(Lane);

impl Verb for Waits {
    type Answer = ();

    fn lane(&self) -> Lane {
        self.0
    }

    async fn run(&self, _: &mut Tx) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Hands in so many jobs of each queue.
async fn waiting(kills: usize, ends: usize, grants: usize) -> Queues {
    let (desk, queues) = queues(CancellationToken::new());
    for (lane, count) in [(Lane::Grant, grants), (Lane::End, ends), (Lane::Kill, kills)] {
        for _ in 0..count {
            // Tokio would make a task wait that hands in so many without a pause.
            let mut posting = Box::pin(tokio::task::unconstrained(desk.post(Waits(lane))));
            assert!(futures_util::poll!(&mut posting).is_pending());
        }
    }
    queues
}

async fn next(queues: &mut Queues) -> (usize, usize, usize) {
    let jobs = queues.next().await.unwrap();
    assert!(jobs.is_sorted_by_key(Job::lane), "kills come first, then ends, then grants");
    let count = |lane| jobs.iter().filter(|job| job.lane() == lane).count();
    (count(Lane::Kill), count(Lane::End), count(Lane::Grant))
}

#[tokio::test]
async fn what_waits_together_is_done_together() {
    let mut queues = waiting(3, 5, 300).await;
    assert_eq!(next(&mut queues).await, (3, 5, 300));
}

#[tokio::test]
async fn a_flood_of_one_kind_leaves_the_others_their_share() {
    let mut queues = waiting(1, 2, 4_000).await;
    assert_eq!(next(&mut queues).await, (1, 2, GRANTS));
    let mut queues = waiting(1, 4_000, 4_000).await;
    for kills in [1, 0, 0] {
        let (killed, ended, granted) = next(&mut queues).await;
        assert_eq!((killed, granted), (kills, GRANTS_WHEN_BUSY));
        assert!(ended >= ENDS);
    }
    let mut queues = waiting(4_000, 4_000, 4_000).await;
    let (killed, ended, granted) = next(&mut queues).await;
    assert!(killed >= KILLS && ended == ENDS && granted == GRANTS_WHEN_BUSY);
}

#[tokio::test]
async fn a_closed_store_does_what_was_handed_in_and_stops() {
    let (desk, mut queues) = queues(CancellationToken::new());
    let mut posting = Box::pin(desk.post(Waits(Lane::Grant)));
    assert!(futures_util::poll!(&mut posting).is_pending());
    queues.closing.cancel();
    assert_eq!(next(&mut queues).await, (0, 0, 1));
    assert!(queues.next().await.is_none());
    assert!(desk.post(Waits(Lane::Kill)).await.is_err());
}
