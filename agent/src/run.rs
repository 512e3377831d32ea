//! The `run` process: puts the parts together, serves until told to stop, and ends in order.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use dayfly_client::{BrokerClient, ConnectError, Identity, IdentityError, IdentityOptions, Pick};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::adopt::{self, Found};
use crate::anchor::Anchor;
use crate::attester::Attester;
use crate::broker_link::BrokerLink;
use crate::cgroup::{CgroupError, CgroupTree, Hierarchy};
use crate::config::{Anchors, Config, OnStop};
use crate::daemon::Told;
use crate::deliver::Deliverer;
use crate::fence::Fence;
use crate::folder::{FolderError, Folders};
use crate::journal::{Journal, JournalError, Ports};
use crate::member::Roster;
use crate::metrics::{self, Metrics};
use crate::native::aws::Aws;
use crate::native::token_file::{self, Launcher};
use crate::native::upstream::{Upstream, UpstreamError};
use crate::native::vault::Vault;
use crate::native::{Door, server};
use crate::rules::Rules;
use crate::socket::environment::Places;
use crate::socket::open::Opener;
use crate::socket::service::Service;
use crate::task::{NewTask, Task};
use crate::tasks::Tasks;
use crate::{leftovers, process, socket};

/// How long calls in flight may take when tasks are left to the next start: the node must not fall silent for it.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// How long a start waits for an address that programs were told, and somebody else has.
const PORT_PATIENCE: Duration = Duration::from_secs(3);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No identity.
    #[error("the agent has no identity")]
    Identity(#[from] IdentityError),
    /// The broker cannot be spoken to.
    #[error("the broker cannot be spoken to")]
    Broker(#[from] ConnectError),
    /// No place for task files.
    #[error("there is no place for the files of tasks")]
    Folder(#[from] FolderError),
    /// No cgroups although they are demanded.
    #[error("tasks are to have cgroups, and the agent cannot make any")]
    Cgroup(#[from] CgroupError),
    /// The way to Vault cannot be made.
    #[error("the way to Vault cannot be made")]
    Upstream(#[from] UpstreamError),
    /// What an earlier life wrote cannot be trusted, or nothing can be written.
    #[error("the journal of tasks cannot be used")]
    Journal(#[from] JournalError),
    /// A socket cannot be made.
    #[error("could not listen at {at}")]
    Listen {
        /// Where.
        at: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say which boot this is.
    #[error("could not read the boot id")]
    BootId(#[source] io::Error),
    /// The socket broke.
    #[error("serving on the socket failed")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let on_stop = config.on_stop;
    let agent = start(config, stop.clone()).await?;
    crate::daemon::ready();
    let told = crate::daemon::stop().await;
    crate::daemon::stopping();
    match (told, on_stop) {
        (Told::Terminate, OnStop::Keep) => agent.leave(stop).await,
        (Told::Terminate, OnStop::End) | (Told::Interrupt, _) => agent.stop(stop).await,
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Running {
    tasks: Arc<Tasks>,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    socket: PathBuf,
    cgroup: Option<PathBuf>,
    drain: std::time::Duration,
    _background: Vec<AbortOnDropHandle<()>>,
}

impl Running {
    /// Finishes calls that do not wait for a task's end, and leaves all tasks to the next start.
    pub async fn leave(self, stop: CancellationToken) -> Result<(), RunError> {
        stop.cancel();
        // Who watches a task would hold this up for ever.
        let served = tokio::time::timeout(self.drain.min(LEAVE_WITHIN), self.serving).await;
        let _ = std::fs::remove_file(&self.socket);
        self.tasks.leave();
        match served {
            Ok(Ok(served)) => Ok(served?),
            Ok(Err(_)) | Err(_) => Ok(()),
        }
    }

    /// Finishes calls, ends all tasks, and waits for the broker to have them on record, within limits.
    pub async fn stop(self, stop: CancellationToken) -> Result<(), RunError> {
        info!("stopping: all tasks end");
        stop.cancel();
        // A watcher's stream ends with its task, so tasks end first.
        self.tasks.stop(self.drain).await;
        let served = tokio::time::timeout(self.drain, self.serving).await;
        let _ = std::fs::remove_file(&self.socket);
        if let Some(cgroup) = &self.cgroup {
            // Stays where something is left in it; the next start clears that up.
            let _ = std::fs::remove_dir(cgroup);
        }
        match served {
            Ok(Ok(served)) => Ok(served?),
            Ok(Err(_)) | Err(_) => {
                warn!("stopped with calls in flight");
                Ok(())
            }
        }
    }
}

/// Starts everything. When it returns, workloads are served.
pub async fn start(config: Config, stop: CancellationToken) -> Result<Running, RunError> {
    let metrics = Arc::new(Metrics::default());
    let boot_id = process::boot_id().map_err(RunError::BootId)?;
    let folders = Folders::take(&config.runtime_dir, config.mount_memory_fs)?;
    let hierarchy = Hierarchy::find().ok();
    let tree = tree(&config, hierarchy.clone())?;
    let (journal, earlier) = Journal::read(&config.runtime_dir, &boot_id)?;
    let journal = Arc::new(journal);
    let tasks = Tasks::new(Roster::new(hierarchy), Some(Arc::clone(&journal)), Arc::clone(&metrics));
    let before = earlier.ports.filter(|_| !earlier.tasks.is_empty());
    let (aws, aws_host, aws_kept) =
        listen_again(config.native.aws_listen, before.map(|ports| ports.aws)).await?;
    let (vault, vault_host, vault_kept) =
        listen_again(config.native.vault_listen, before.map(|ports| ports.vault)).await?;
    let (found, lost) = adopt::look(earlier, tree.as_ref(), adopt::Kept { aws: aws_kept, vault: vault_kept });
    let ports = Ports { aws: port(&aws), vault: port(&vault) };
    journal.begin(found.iter().map(|found| found.entry.clone()).collect(), ports)?;
    for (task_id, why) in lost {
        Metrics::count(&metrics.tasks_adopted, "lost");
        tasks.outbox.task_ended(&task_id, why.word(), SystemTime::now());
    }
    // The first word on a task counts, and these know why it is over.
    leftovers::clear(tree.as_ref(), &folders, &tasks.outbox, &kept(&found)).await;
    let mut launchers = Vec::new();
    for found in found {
        launchers.extend(take_up(&tasks, &folders, found, &boot_id)?);
    }

    let options = IdentityOptions { pick: Pick::Id(config.spiffe_id.clone()), ..IdentityOptions::default() };
    let identity = Identity::from_workload_api(config.workload_api.as_deref(), options).await?;
    let broker = BrokerClient::connect_lazily(config.broker.clone(), &identity)?;
    let fence = Arc::new(Fence::default());
    let per_uid = config.limits.attestations_per_uid;
    let attester = Arc::new(Attester::new(config.attest.socket.clone(), per_uid, Arc::clone(&metrics)));
    let rules = Arc::<Rules>::default();
    let deliverer = Deliverer::new(
        broker.clone(),
        Arc::clone(&attester),
        Arc::clone(&rules),
        Arc::clone(&fence),
        Arc::clone(&metrics),
    );

    let unix = socket::bind(&config.socket, config.socket_mode)
        .map_err(|source| RunError::Listen { at: config.socket.display().to_string(), source })?;
    let mut background = Vec::new();
    let mut spawn = |work: futures_util::future::BoxFuture<'static, ()>| {
        background.push(AbortOnDropHandle::new(tokio::spawn(work)));
    };
    if let Some(at) = config.metrics {
        let (listener, _) = listen(at).await?;
        spawn(Box::pin(metrics::serve(listener, Arc::clone(&metrics))));
    }
    let door = || Door::new(Arc::clone(&tasks), Arc::clone(&attester));
    let aws_endpoint = Arc::new(Aws {
        host: aws_host.clone(),
        door: door(),
        deliverer: Arc::clone(&deliverer),
        metrics: Arc::clone(&metrics),
    });
    let vault_endpoint = Arc::new(Vault {
        host: vault_host.clone(),
        door: door(),
        deliverer: Arc::clone(&deliverer),
        tasks: Arc::clone(&tasks),
        upstream: Upstream::new(config.native.vault_address.clone(), config.native.vault_ca_file.as_deref())?,
        metrics: Arc::clone(&metrics),
    });
    spawn(Box::pin(server::serve(aws, aws_endpoint, config.limits)));
    spawn(Box::pin(server::serve(vault, vault_endpoint, config.limits)));
    let link = BrokerLink {
        broker: broker.clone(),
        identity,
        tasks: Arc::clone(&tasks),
        attester: Arc::clone(&attester),
        rules,
        fence: Arc::clone(&fence),
        metrics: Arc::clone(&metrics),
        boot_id: boot_id.clone(),
    };
    spawn(Box::pin(link.run()));

    let places = Places {
        aws_host,
        vault_host,
        aws_region: config.native.aws_region.clone(),
        socket: config.socket.display().to_string(),
    };
    for (task, launcher) in launchers {
        tokio::spawn(token_file::keep(task, launcher, Arc::clone(&deliverer), Arc::clone(&fence)));
    }
    let cgroup = tree.as_ref().map(|tree| tree.directory().to_owned());
    let opener = Arc::new(Opener {
        tasks: Arc::clone(&tasks),
        attester,
        broker,
        deliverer,
        fence,
        folders,
        tree,
        anchors: config.anchors,
        places,
        journal,
        boot_id,
        opening: Mutex::new(HashSet::new()),
    });
    let service = Service::new(opener, metrics);
    let serving = tokio::spawn(socket::serve(unix, service, config.limits, stop));
    info!(socket = %config.socket.display(), spiffe_id = %config.spiffe_id, "agent serves");
    Ok(Running {
        tasks,
        serving,
        socket: config.socket,
        cgroup,
        drain: config.drain,
        _background: background,
    })
}

/// What must not be cleared up.
fn kept(found: &[Found]) -> leftovers::Kept {
    let tasks = found.iter().map(|found| found.entry.id.clone()).collect();
    let cgroup = |found: &Found| match &*found.anchor {
        Anchor::OwnedCgroup { cgroup, .. } => Some(cgroup.id()),
        Anchor::Process(_) => None,
    };
    leftovers::Kept { tasks, cgroups: found.iter().filter_map(cgroup).collect() }
}

/// Watches a task of an earlier life again. The program that waits for a token file is told by what its leader was.
fn take_up(
    tasks: &Arc<Tasks>,
    folders: &Folders,
    found: Found,
    boot_id: &str,
) -> Result<Option<(Arc<Task>, Launcher)>, FolderError> {
    let Found { entry, anchor, deliveries } = found;
    let (uid, gid) = entry.owner;
    let folder = folders.reopen(&entry.id, uid, gid)?;
    let observed = adopt::observed(&anchor, boot_id, &entry.attested_by);
    let again = NewTask {
        id: entry.id,
        session_id: entry.session_id,
        parent: entry.parent,
        deadline: entry.deadline,
        anchor: Arc::clone(&anchor),
        leave_orphans: entry.leave_orphans,
        deliveries,
        folder: Some(folder),
    };
    let task = tasks.adopt(again, observed);
    // Its connection ended with the agent that answered it.
    let closed = CancellationToken::new();
    closed.cancel();
    let launcher = anchor.leader().zip(entry.launcher);
    Ok(launcher.map(|(leader, image)| (task, Launcher { process: leader.clone(), image, closed })))
}

/// The agent's own corner of the cgroup hierarchy; `None` where it may have none and need not.
fn tree(config: &Config, hierarchy: Option<Hierarchy>) -> Result<Option<CgroupTree>, RunError> {
    if config.anchors == Anchors::Process {
        return Ok(None);
    }
    let made = hierarchy.ok_or(CgroupError::NotMounted).and_then(|hierarchy| match &config.cgroup {
        Some(base) => CgroupTree::at(hierarchy, base),
        None => {
            // The same after a restart, another for another agent on this machine.
            let digest = Sha256::digest(config.runtime_dir.as_os_str().as_encoded_bytes());
            let name = format!("dayfly-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
            let base = hierarchy.own_directory()?.join(name);
            CgroupTree::at(hierarchy, &base)
        }
    });
    match made {
        Ok(tree) => Ok(Some(tree)),
        Err(error) if config.anchors == Anchors::Auto => {
            warn!(%error, "tasks hang on processes: daemons that leave their task are not found");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// Listens where the agent listened before its restart, if it may listen anywhere: programs were told. The last part says
/// whether it does.
async fn listen_again(at: SocketAddr, before: Option<u16>) -> Result<(TcpListener, String, bool), RunError> {
    let Some(port) = before else {
        let (listener, host) = listen(at).await?;
        return Ok((listener, host, true));
    };
    if at.port() != 0 {
        let (listener, host) = listen(at).await?;
        return Ok((listener, host, at.port() == port));
    }
    let again = SocketAddr::new(at.ip(), port);
    let until = Instant::now() + PORT_PATIENCE;
    loop {
        match listen(again).await {
            Ok((listener, host)) => return Ok((listener, host, true)),
            Err(error) if Instant::now() >= until => {
                warn!(%error, port, "somebody else has the address that tasks were told: those end");
                let (listener, host) = listen(at).await?;
                return Ok((listener, host, false));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().map(|at| at.port()).unwrap_or_default()
}

async fn listen(at: SocketAddr) -> Result<(TcpListener, String), RunError> {
    let failed = |source| RunError::Listen { at: at.to_string(), source };
    let listener = TcpListener::bind(at).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, server::host_of(address)))
}
