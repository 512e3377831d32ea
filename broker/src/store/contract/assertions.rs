//! Client assertions are taken once.

use super::World;
use super::world::{T0, at};

const ONE: [u8; 32] = [1; 32];
const OTHER: [u8; 32] = [2; 32];

pub(crate) async fn an_assertion_is_taken_once_also_after_a_restart(w: &mut World) {
    assert!(w.store().take_assertion(ONE, at(60), T0).await.unwrap());
    assert!(!w.store().take_assertion(ONE, at(60), at(1)).await.unwrap());
    assert!(!w.store().take_assertion(ONE, at(600), at(1)).await.unwrap(), "another end, the same assertion");
    assert!(w.store().take_assertion(OTHER, at(60), at(1)).await.unwrap());
    w.reopen().await;
    assert!(!w.store().take_assertion(ONE, at(60), at(2)).await.unwrap());
}

pub(crate) async fn of_two_that_bring_an_assertion_at_once_one_is_heard(w: &mut World) {
    let (a, b) =
        tokio::join!(w.store().take_assertion(ONE, at(60), T0), w.store().take_assertion(ONE, at(60), T0));
    assert_eq!(usize::from(a.unwrap()) + usize::from(b.unwrap()), 1);
}

pub(crate) async fn an_assertion_that_ran_out_is_not_taken_and_then_forgotten(w: &mut World) {
    assert!(!w.store().take_assertion(ONE, at(60), at(60)).await.unwrap());
    assert!(w.store().take_assertion(ONE, at(60), at(59)).await.unwrap(), "nothing was noted of the first");
    assert!(w.store().take_assertion(OTHER, at(61), at(59)).await.unwrap());
    assert_eq!(w.store().sweep_assertions(at(60), 10).await.unwrap(), 0, "it may still be on its way");
    assert_eq!(w.store().sweep_assertions(at(100), 1).await.unwrap(), 1, "as many as were asked for");
    assert!(w.store().take_assertion(ONE, at(60), at(59)).await.unwrap(), "the oldest was forgotten");
    assert!(!w.store().take_assertion(OTHER, at(61), at(59)).await.unwrap());
    assert_eq!(w.store().sweep_assertions(at(100), 10).await.unwrap(), 2);
}
