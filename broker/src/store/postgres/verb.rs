//! What a change of state is to this store.

use std::future::Future;

use super::transaction::{Needs, Tx};
use crate::store::StoreError;
use crate::store::desk::{Lane, Work};

/// One change of state.
pub(super) trait Verb: Send + Sync + 'static {
    type Answer: Send + 'static;

    fn lane(&self) -> Lane;

    /// Whether the verb may be refused for want of a record.
    fn is_refusable(&self) -> bool {
        self.lane() == Lane::Grant
    }

    /// What must be locked before it runs.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Changes state. May run more than once, each time on the state before.
    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send;
}

impl<V: Verb> Work<Tx> for V {
    type Answer = V::Answer;

    fn lane(&self) -> Lane {
        Verb::lane(self)
    }

    fn is_refusable(&self) -> bool {
        Verb::is_refusable(self)
    }

    fn needs(&self) -> Needs {
        Verb::needs(self)
    }

    fn run(&self, tx: &mut Tx) -> impl Future<Output = Result<Self::Answer, StoreError>> + Send {
        Verb::run(self, tx)
    }
}
