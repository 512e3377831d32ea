//! Whether anything may be served: not while the broker has been silent for so long that it takes the node for dead.
//!
//! The broker ends the tasks of a silent node by itself. An agent that went on serving meanwhile would hand out what the
//! broker believes to be taken back.

use tokio::sync::watch;
use tracing::{info, warn};

/// Up: nothing is served.
#[derive(Debug)]
pub struct Fence(watch::Sender<bool>);

impl Default for Fence {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Fence {
    /// Whether nothing may be served.
    pub fn is_up(&self) -> bool {
        *self.0.borrow()
    }

    /// Stops all serving. `false` if it was stopped already.
    pub fn raise(&self) -> bool {
        let raised = self.0.send_if_modified(|up| !std::mem::replace(up, true));
        if raised {
            warn!("the broker is silent: nothing is served until it is heard again");
        }
        raised
    }

    /// Serves again.
    pub fn lower(&self) {
        if self.0.send_if_modified(|up| std::mem::replace(up, false)) {
            info!("the broker is heard again");
        }
    }

    /// Completes when the state is `up`; at once if it is.
    pub async fn is(&self, up: bool) {
        // The sender lives as long as `self`, so this never fails.
        let _ = self.0.subscribe().wait_for(|state| *state == up).await;
    }
}
