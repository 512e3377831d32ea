//! Tells node agents and watchers what ended. A notice is a courtesy: what is true stands in the store.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use dayfly_domain::id::{KillId, LeaseId, TaskId};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::task::EndCause;
use tokio::sync::{broadcast, mpsc};

/// What an agent is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Stop serving this task.
    TaskOver {
        /// The task.
        task: TaskId,
        /// Why it is over.
        cause: EndCause,
    },
    /// Drop the credential of this lease, if it is yours.
    LeaseRevoked {
        /// The lease.
        lease: LeaseId,
    },
    /// Ask anew before serving what was decided under other rules.
    RulesChanged {
        /// Digest of the rules that stand now.
        digest: String,
        /// The scopes for which that matters.
        scopes: Vec<String>,
    },
    /// All that this kill ends was told before: say so once it is dropped.
    CutOff {
        /// The kill.
        kill: KillId,
    },
}

/// Who is listening.
#[derive(Debug)]
pub struct Notices {
    nodes: Mutex<HashMap<SpiffeId, mpsc::UnboundedSender<Notice>>>,
    watchers: broadcast::Sender<(TaskId, EndCause)>,
    /// Who said that it has dropped what a kill cut off, while somebody waits for it.
    dropped: Mutex<HashMap<KillId, HashSet<SpiffeId>>>,
}

impl Default for Notices {
    fn default() -> Self {
        Self { nodes: Mutex::default(), watchers: broadcast::channel(1024).0, dropped: Mutex::default() }
    }
}

impl Notices {
    /// Notices for one node from now on. A newer stream of the node takes the place of an older one.
    pub fn for_node(&self, node: SpiffeId) -> mpsc::UnboundedReceiver<Notice> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.lock().insert(node, sender);
        receiver
    }

    /// Ends of tasks from now on. A receiver that lags must read the store.
    pub fn for_watcher(&self) -> broadcast::Receiver<(TaskId, EndCause)> {
        self.watchers.subscribe()
    }

    /// A task is over.
    pub fn task_over(&self, task: TaskId, node: Option<&SpiffeId>, cause: EndCause) {
        if let Some(node) = node
            && let Some(sender) = self.lock().get(node)
        {
            // A closed stream reads its inventory anew when it comes back.
            let _ = sender.send(Notice::TaskOver { task, cause });
        }
        let _ = self.watchers.send((task, cause));
    }

    /// One lease was taken back while its task goes on.
    pub fn lease_revoked(&self, lease: LeaseId) {
        for sender in self.lock().values() {
            let _ = sender.send(Notice::LeaseRevoked { lease });
        }
    }

    /// Other rules stand now.
    pub fn rules_changed(&self, digest: &str, scopes: &[String]) {
        for sender in self.lock().values() {
            let _ =
                sender.send(Notice::RulesChanged { digest: digest.to_owned(), scopes: scopes.to_owned() });
        }
    }

    /// Asks every agent to say that it has dropped what a kill cut off. Returns how many are asked.
    pub fn cut_off(&self, kill: KillId) -> u32 {
        self.dropped().insert(kill, HashSet::new());
        let told = self.lock().values().filter(|sender| sender.send(Notice::CutOff { kill }).is_ok()).count();
        u32::try_from(told).unwrap_or(u32::MAX)
    }

    /// An agent has dropped it.
    pub fn acknowledge(&self, kill: KillId, node: &SpiffeId) {
        if let Some(nodes) = self.dropped().get_mut(&kill) {
            nodes.insert(node.clone());
        }
    }

    /// How many agents have.
    pub fn acknowledged(&self, kill: KillId) -> u32 {
        let count = self.dropped().get(&kill).map_or(0, HashSet::len);
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Nobody waits for it any more.
    pub fn forget_cut_off(&self, kill: KillId) {
        self.dropped().remove(&kill);
    }

    /// Tells a node nothing any more, which ends its stream.
    pub fn close(&self, node: &SpiffeId) {
        self.lock().remove(node);
    }

    fn dropped(&self) -> std::sync::MutexGuard<'_, HashMap<KillId, HashSet<SpiffeId>>> {
        self.dropped.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SpiffeId, mpsc::UnboundedSender<Notice>>> {
        let mut nodes = self.nodes.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        nodes.retain(|_, sender| !sender.is_closed());
        nodes
    }
}
