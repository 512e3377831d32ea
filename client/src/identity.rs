//! The process's own identity, kept fresh by the SPIFFE Workload API.
//!
//! An [`Identity`] is one SPIFFE ID for the life of the process: rotation changes its certificates, never its name.
//! It is the only place that knows the `spiffe` crate's sources.

use std::{
    fmt::{self, Debug, Formatter},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use spiffe::{
    JwtSource, JwtSourceError, SpiffeId, TrustDomain, WorkloadApiClient, WorkloadApiError, X509Source,
    X509SourceError, X509SourceUpdates, X509Svid, x509_source::SvidPicker,
};
use thiserror::Error;
use tokio::{
    sync::OnceCell,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info};

use crate::peer::{Peer, PeerError};

/// A SPIFFE ID that this process can prove, with certificates that rotate by themselves. Cheap to clone.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    spiffe_id: SpiffeId,
    endpoint: String,
    sync_timeout: Duration,
    x509: X509Source,
    /// Opened when first asked for: most processes never need a JWT.
    jwt: OnceCell<JwtSource>,
}

/// How to come by an identity.
#[derive(Debug, Clone)]
pub struct IdentityOptions {
    /// How long to wait for a first SVID; 10 s by default. A new registration entry takes some seconds to arrive.
    pub initial_sync_timeout: Duration,
    /// Which SVID to be, where the Workload API offers several.
    pub pick: Pick,
}

impl Default for IdentityOptions {
    fn default() -> Self {
        IdentityOptions { initial_sync_timeout: Duration::from_secs(10), pick: Pick::Sole }
    }
}

/// Which of the SVIDs that the Workload API offers to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    /// The only one. Several are an error: which comes first is chance, and policy hangs on it.
    Sole,
    /// The one of this SPIFFE ID.
    Id(SpiffeId),
    /// The one whose registration entry carries this hint.
    Hint(String),
}

/// Whether the identity can be used now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It has a certificate that holds until then.
    Fresh {
        /// `notAfter` of the current leaf.
        until: SystemTime,
    },
    /// The Workload API took it back: no entry matches this process any more.
    Withdrawn {
        /// What the Workload API said.
        why: String,
    },
    /// The certificate ran out, or the Workload API now offers other identities only.
    Lost,
    /// Nothing keeps the identity fresh any more.
    Closed,
}

impl Identity {
    /// Asks the Workload API who this process is, and keeps the answer fresh from then on.
    ///
    /// `endpoint` is `unix:/path` (or `tcp:127.0.0.1:port`); `None` takes it from `SPIFFE_ENDPOINT_SOCKET`.
    ///
    /// # Errors
    /// No endpoint, nobody there, no entry for this process, or several SVIDs and no rule which to be. A Workload API that
    /// is not up yet, or has no entry yet, is asked again until `initial_sync_timeout` has passed.
    pub async fn from_workload_api(
        endpoint: Option<&str>,
        options: IdentityOptions,
    ) -> Result<Self, IdentityError> {
        let endpoint = match endpoint {
            Some(named) => named.to_owned(),
            None => std::env::var("SPIFFE_ENDPOINT_SOCKET").map_err(|_| IdentityError::NoEndpoint)?,
        };
        let deadline = Instant::now() + options.initial_sync_timeout;
        let offered = first_answer(&endpoint, deadline, options.initial_sync_timeout).await?;
        let spiffe_id = choose(&offered, &options.pick)?;

        let x509 = X509Source::builder()
            .endpoint(&endpoint)
            .picker(Always(spiffe_id.clone()))
            // The first answer may have taken all the time there was.
            .initial_sync_timeout(
                deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(2)),
            )
            .build()
            .await
            .map_err(|source| IdentityError::X509 { source })?;
        info!(%spiffe_id, %endpoint, "identity obtained");
        Ok(Identity(Arc::new(Inner {
            spiffe_id,
            endpoint,
            sync_timeout: options.initial_sync_timeout,
            x509,
            jwt: OnceCell::new(),
        })))
    }

    /// Who this process is.
    pub fn spiffe_id(&self) -> &SpiffeId {
        &self.0.spiffe_id
    }

    /// The trust domain it belongs to.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.0.spiffe_id.trust_domain()
    }

    /// The live source of certificates and bundles. Its type belongs to the `spiffe` crate and breaks with it.
    pub fn x509_source(&self) -> &X509Source {
        &self.0.x509
    }

    /// The live source of JWT bundles, opened at the first call. Its type belongs to the `spiffe` crate and breaks with
    /// it; prefer [`Identity::jwt_svid`] and [`Identity::verify_jwt_svid`].
    ///
    /// # Errors
    /// The Workload API gave no JWT bundles in time.
    pub async fn jwt_source(&self) -> Result<&JwtSource, IdentityError> {
        let open = || {
            JwtSource::builder().endpoint(&self.0.endpoint).initial_sync_timeout(self.0.sync_timeout).build()
        };
        self.0.jwt.get_or_try_init(open).await.map_err(|source| IdentityError::Jwt { source })
    }

    /// Whether the identity can be used now. An SVID that runs out sends no notice, so ask again.
    pub fn health(&self) -> Health {
        let state = self.0.x509.state();
        if let Some(why) = state.withdrawal() {
            return Health::Withdrawn { why: why.to_string() };
        }
        if state.is_closed() {
            return Health::Closed;
        }
        match self.leaf() {
            Ok(leaf) => Health::Fresh { until: leaf.not_after },
            Err(_) => Health::Lost,
        }
    }

    /// Whether the Workload API has taken the identity back.
    pub fn withdrawn(&self) -> bool {
        matches!(self.health(), Health::Withdrawn { .. })
    }

    /// This process as its peers see it now: ID, serial and end of the current certificate.
    ///
    /// # Errors
    /// There is no certificate now; [`Identity::health`] says why.
    pub fn leaf(&self) -> Result<Peer, IdentityError> {
        let svid = self.0.x509.svid().map_err(|source| IdentityError::X509 { source })?;
        Peer::from_der(svid.leaf().as_bytes()).map_err(|source| IdentityError::OwnLeaf { source })
    }

    /// Tells of rotations, of trust that changed, of withdrawal and return.
    pub fn updates(&self) -> IdentityUpdates {
        IdentityUpdates(self.0.x509.updated())
    }
}

impl Debug for Identity {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("spiffe_id", &format_args!("{}", self.0.spiffe_id))
            .field("endpoint", &self.0.endpoint)
            .field("health", &self.health())
            .finish()
    }
}

/// Notices of change. Notices that nobody waited for melt into one.
#[derive(Debug, Clone)]
pub struct IdentityUpdates(X509SourceUpdates);

impl IdentityUpdates {
    /// Waits for the next change.
    ///
    /// # Errors
    /// Nothing keeps the identity fresh any more, so no notice will come.
    pub async fn changed(&mut self) -> Result<(), IdentityError> {
        self.0.changed().await.map(drop).map_err(|source| IdentityError::X509 { source })
    }
}

/// Why this process has no identity.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Nobody said where the Workload API is.
    #[error(
        "no Workload API endpoint; set SPIFFE_ENDPOINT_SOCKET (unix:/run/spire/agent.sock) or name one in the configuration"
    )]
    NoEndpoint,
    /// The endpoint cannot be one, or what answers there is no Workload API.
    #[error("no Workload API can be used at {endpoint}; check the endpoint, and what listens there")]
    Unusable {
        /// Where it was sought.
        endpoint: String,
        /// What failed.
        #[source]
        source: WorkloadApiError,
    },
    /// Nobody answered in time.
    #[error("the Workload API at {endpoint} gave no SVID within {waited:?}; is the SPIRE agent running?")]
    Unreachable {
        /// Where it was sought.
        endpoint: String,
        /// How long.
        waited: Duration,
        /// The last failure; none where it never answered at all.
        #[source]
        source: Option<WorkloadApiError>,
    },
    /// The Workload API answers, but knows nobody like this process.
    #[error(
        "no registration entry matches this process (uid {uid}, {exe}, waited {waited:?}); \
         create an entry for it under this node, or run it as the user and program that has one"
    )]
    NoEntry {
        /// Effective user id.
        uid: u32,
        /// The program, as `/proc/self/exe` names it.
        exe: String,
        /// How long.
        waited: Duration,
        /// What the Workload API said.
        #[source]
        source: WorkloadApiError,
    },
    /// Entries overlap.
    #[error("several registration entries match this process: {}; make their selectors disjoint, or say which to be", list(.offered))]
    Several {
        /// What was offered.
        offered: Vec<SpiffeId>,
    },
    /// The identity that was asked for is not on offer.
    #[error("{wanted} is not among this process's identities: {}; correct its registration entry or the configuration", list(.offered))]
    NotOffered {
        /// What was asked for.
        wanted: String,
        /// What was offered.
        offered: Vec<SpiffeId>,
    },
    /// The certificate source failed.
    #[error("the Workload API gives no usable X.509-SVID")]
    X509 {
        /// What failed.
        #[source]
        source: X509SourceError,
    },
    /// The JWT source failed.
    #[error("the Workload API gives no JWT bundles or JWT-SVIDs")]
    Jwt {
        /// What failed.
        #[source]
        source: JwtSourceError,
    },
    /// The Workload API gave a certificate that names nobody.
    #[error("the Workload API gave a certificate that is no X.509-SVID")]
    OwnLeaf {
        /// What is wrong with it.
        #[source]
        source: PeerError,
    },
}

/// Asks until there is an answer. The `spiffe` source would ask as patiently, but forgets why it had to.
async fn first_answer(
    endpoint: &str,
    deadline: Instant,
    waited: Duration,
) -> Result<Vec<X509Svid>, IdentityError> {
    let mut pause = Duration::from_millis(100);
    let mut last = None;
    loop {
        let ask = async { WorkloadApiClient::connect_to(endpoint).await?.fetch_all_x509_svids().await };
        match timeout_at(deadline, ask).await {
            Ok(Ok(svids)) => return Ok(svids),
            Ok(Err(source)) if is_final(&source) => {
                return Err(IdentityError::Unusable { endpoint: endpoint.to_owned(), source });
            }
            Ok(Err(source)) => {
                debug!(%endpoint, error = %source, "no SVID yet");
                last = Some(source);
            }
            Err(_) => return Err(gave_up(endpoint, last, waited)),
        }
        if Instant::now() + pause >= deadline {
            return Err(gave_up(endpoint, last, waited));
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn is_final(error: &WorkloadApiError) -> bool {
    matches!(error, WorkloadApiError::Endpoint(_)) || error.is_invalid_argument()
}

fn gave_up(endpoint: &str, last: Option<WorkloadApiError>, waited: Duration) -> IdentityError {
    match last {
        Some(
            source @ (WorkloadApiError::NoIdentityIssued
            | WorkloadApiError::PermissionDenied(_)
            | WorkloadApiError::EmptyResponse),
        ) => IdentityError::NoEntry {
            uid: rustix::process::geteuid().as_raw(),
            exe: std::env::current_exe()
                .unwrap_or_else(|_| PathBuf::from("unknown program"))
                .display()
                .to_string(),
            waited,
            source,
        },
        source => IdentityError::Unreachable { endpoint: endpoint.to_owned(), waited, source },
    }
}

fn choose(offered: &[X509Svid], pick: &Pick) -> Result<SpiffeId, IdentityError> {
    let mut ids: Vec<SpiffeId> = offered.iter().map(|svid| svid.spiffe_id().clone()).collect();
    // Two entries of one SPIFFE ID are one identity.
    ids.sort();
    ids.dedup();
    let missing = |wanted: String| IdentityError::NotOffered { wanted, offered: ids.clone() };
    match pick {
        Pick::Sole => match &ids[..] {
            [one] => Ok(one.clone()),
            _ => Err(IdentityError::Several { offered: ids }),
        },
        Pick::Id(id) if ids.contains(id) => Ok(id.clone()),
        Pick::Id(id) => Err(missing(id.to_string())),
        Pick::Hint(hint) => {
            let hinted = offered.iter().find(|svid| svid.hint() == Some(hint));
            hinted.map(|svid| svid.spiffe_id().clone()).ok_or_else(|| missing(format!("the hint `{hint}`")))
        }
    }
}

/// Holds the source to the identity that was chosen at the start. When it is no longer on offer the source has none.
struct Always(SpiffeId);

impl SvidPicker for Always {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        svids.iter().position(|svid| *svid.spiffe_id() == self.0)
    }
}

fn list(ids: &[SpiffeId]) -> String {
    let ids: Vec<String> = ids.iter().map(SpiffeId::to_string).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}
