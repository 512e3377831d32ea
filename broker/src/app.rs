//! The one place where the parts meet: from a configuration to a broker that serves, until it is drained.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use dayfly_client::{
    Identity, IdentityError, IdentityOptions, Incoming, IncomingLimits, Listener, Pick, ServerTls, Speaks,
    TrustDomain,
};
use dayfly_domain::audit::{Record, Stream};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_proto::v1::admin_service_server::AdminServiceServer;
use dayfly_proto::v1::approval_service_server::ApprovalServiceServer;
use dayfly_proto::v1::credential_service_server::CredentialServiceServer;
use dayfly_proto::v1::key_service_server::KeyServiceServer;
use dayfly_proto::v1::node_service_server::NodeServiceServer;
use dayfly_proto::v1::question_service_server::QuestionServiceServer;
use dayfly_proto::v1::revocation_service_server::RevocationServiceServer;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::api::Api;
use crate::caller::{Bundles, Callers};
use crate::clock::Clock;
use crate::config::Config;
use crate::denials::Denials;
use crate::limited::Limited;
use crate::metrics::Metrics;
use crate::operations::apply::reload;
use crate::operations::elsewhere;
use crate::operations::lapse::Lapses;
use crate::operations::notice::Notices;
use crate::operations::settle::KillsSettle;
use crate::operations::stream_anchor::StreamAnchors;
use crate::operations::{Broker, Signing};
use crate::providers::Catalogue;
use crate::providers::artifact::ArtifactProvider;
use crate::providers::aws::{AwsProvider, DenyParts};
use crate::providers::token::{Reserved, TokenOptions, TokenProvider};
use crate::providers::vault::{TransitKeys, VaultProvider};
use crate::public::exchange::{self, TokenEndpoint};
use crate::public::introspection;
use crate::public::{Discovery, Endpoints, Introspector, Ledger};
use crate::rate::Rate;
use crate::receipts::Receipts;
use crate::revoker::{self, Breakers, Wake};
use crate::signer::{FileKeys, KeyHolder, Keyring, Signer, Use};
use crate::store::Store;
use crate::store::postgres::PostgresStore;
use crate::store::sqlite::{Options, SqliteStore};
use crate::{janitor, listen};

/// Largest answer to an admin.
const MAX_ADMIN_ANSWER: usize = dayfly_client::MAX_ADMIN_ANSWER_BYTES;
/// Largest request of an admin: an apply may bring many documents.
const MAX_ADMIN_REQUEST: usize = dayfly_domain::document::MAX_INPUT + 64 * 1024;

/// How long until the Workload API is asked again.
const IDENTITY_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

/// A broker whose listeners stand.
pub struct App {
    broker: Arc<Broker>,
    store: Arc<dyn Store>,
    servers: TaskTracker,
    stop: CancellationToken,
}

impl App {
    /// Opens state and keys, learns who the broker is, starts every part.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let store = open_store(&config).await?;
        let files = key_files(&config)?;
        let broker = Arc::new(Broker {
            store: Arc::clone(&store),
            rules: ArcSwap::default(),
            providers: OnceLock::new(),
            receipts: OnceLock::new(),
            signing: OnceLock::new(),
            clock: Clock::default(),
            trust_domains: config.trust_domain_rules(),
            root_admins: config.admins.root.clone(),
            approvals_from_one_host: config.admins.approvals_from_one_host,
            reloading: tokio::sync::Mutex::default(),
            simulating: Arc::new(Semaphore::new(1)),
            kills_settle: KillsSettle::default(),
            breakers: Breakers::default(),
            wake: Wake::default(),
            notices: Notices::default(),
            stream_anchors: StreamAnchors::default(),
            lapses: Lapses::default(),
            denials: Denials::new(config.limits.equal_denials_per_minute),
            rate: Rate::default(),
            limited: Limited::default(),
            metrics: Metrics::default(),
            tracker: TaskTracker::new(),
            limits: config.limits.clone(),
        });
        let app = Self { broker, store, servers: TaskTracker::new(), stop: CancellationToken::new() };
        reload(&app.broker).await.context("the stored documents")?;
        // A crash may have come between a kill and what it ends.
        app.broker.kills_settle.begin(app.broker.clock.now() + app.broker.limits.kill_settles);
        app.servers.spawn(janitor::run(Arc::clone(&app.broker), app.stop.clone()));
        if app.broker.store.is_shared() {
            app.servers.spawn(elsewhere::run(Arc::clone(&app.broker), app.stop.clone()));
        }
        // Before the identity: listing and taking away must be possible while SPIRE is down.
        app.serve_break_glass(&config).await?;
        app.serve_as(&config, &wait_for_identity(&config).await?, files).await?;
        Ok(app)
    }

    /// Starts what needs to know who the broker is.
    async fn serve_as(
        &self,
        config: &Config,
        identity: &Identity,
        files: Option<FileKeys>,
    ) -> anyhow::Result<()> {
        let own: SpiffeId = identity.spiffe_id().to_string().parse().context("the broker's own SPIFFE ID")?;
        let faults = config.faults_as(own.trust_domain());
        if !faults.is_empty() {
            bail!("{}", faults.join("; "));
        }
        let signer = self.signer(config, identity, files).await?;
        let deny = DenyParts {
            store: Arc::clone(&self.broker.store),
            owner: config.state.writer.clone(),
            counts: self.broker.metrics.deny_documents.clone(),
        };
        let catalogue = build_catalogue(config, identity, &own, &signer, deny).await?;
        self.broker.providers.set(catalogue).ok().context("the providers are set once")?;
        let receipts = receipts(config, &own, &signer);
        self.broker.receipts.set(receipts).ok().context("the receipts' signer is set once")?;
        self.record_start(&own).await;
        revoker::start(&self.broker, &self.servers, &self.stop);
        self.serve_public(config, &signer).await?;
        self.serve_introspection(config, identity, &signer).await?;
        self.serve_token_exchange(config, identity, &signer).await?;
        self.serve_metrics(config).await?;
        self.serve_grpc(config, &own, identity).await?;
        tracing::info!(spiffe_id = %own, address = config.listen.grpc, "broker ready");
        Ok(())
    }

    /// Brings the keys together, wherever they are held, and keeps them.
    async fn signer(
        &self,
        config: &Config,
        identity: &Identity,
        files: Option<FileKeys>,
    ) -> anyhow::Result<Arc<dyn Signer>> {
        let holder: Arc<dyn KeyHolder> = match (files, &config.keys.vault_transit) {
            (Some(files), _) => Arc::new(files),
            (None, Some(transit)) => {
                let started = TransitKeys::start(transit.clone(), identity.clone()).await;
                Arc::new(started.context("keys.vault_transit")?)
            }
            (None, None) => bail!("keys: name dir or vault_transit"),
        };
        let store: Arc<dyn Store> = Arc::clone(&self.broker.store);
        let keyring =
            Arc::new(Keyring::start(holder, &*store).await.context("the keys that were taken out")?);
        let signing = Signing { keyring: Arc::clone(&keyring), issuers: config.issuer.url.clone() };
        self.broker.signing.set(signing).ok().context("the keys are set once")?;
        self.servers.spawn(Arc::clone(&keyring).keep(store, self.stop.clone()));
        Ok(keyring)
    }

    /// Waits until told to stop, then lets calls in flight finish within the drain's time.
    pub async fn run(self, told: impl Future<Output = ()>) {
        tokio::select! {
            () = told => tracing::info!("draining"),
            () = self.store.stopped() => tracing::error!("the store's writer is gone: nothing can be recorded any more"),
        }
        self.stop.cancel();
        self.servers.close();
        self.broker.tracker.close();
        let drained = async {
            self.servers.wait().await;
            self.broker.tracker.wait().await;
        };
        match tokio::time::timeout(self.broker.limits.drain.as_duration(), drained).await {
            Ok(()) => tracing::info!("drained"),
            Err(_) => tracing::warn!("calls were still in flight when the drain's time was over"),
        }
        let record = Record::new(Stream::Admin, "broker.stop", self.broker.clock.now());
        if let Err(error) = self.broker.store.write_records(vec![record]).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the stop could not be recorded");
        }
        self.store.close().await;
    }

    /// A start gives nothing, so it goes on unrecorded: behind a full disk there are credentials to take back.
    async fn record_start(&self, own: &SpiffeId) {
        let record = Record::new(Stream::Admin, "broker.start", self.broker.clock.now())
            .with("spiffe_id", own)
            .with("version", env!("CARGO_PKG_VERSION"));
        if let Err(error) = self.broker.store.write_records(vec![record]).await {
            tracing::error!(
                error = dayfly_client::chain(&error),
                "the start could not be recorded; what ends is still taken back"
            );
        }
    }

    fn api(&self, own: &SpiffeId, identity: &Identity) -> anyhow::Result<Api> {
        let verifier = Bundles { identity: identity.clone(), accepted: self.accepted()? };
        let callers = Callers {
            broker: own.clone(),
            verifier: Arc::new(verifier),
            subject_token_age: self.broker.limits.subject_token_age,
        };
        Ok(Api { broker: Arc::clone(&self.broker), callers: Some(Arc::new(callers)) })
    }

    fn accepted(&self) -> anyhow::Result<Vec<TrustDomain>> {
        let names = self.broker.trust_domains.iter().map(|domain| TrustDomain::new(&domain.name));
        names.collect::<Result<_, _>>().context("a trust domain's name")
    }

    async fn serve_grpc(&self, config: &Config, own: &SpiffeId, identity: &Identity) -> anyhow::Result<()> {
        let api = self.api(own, identity)?;
        let tls = ServerTls::new(identity, &self.accepted()?, Speaks::Http2).context("mTLS")?;
        let listener: Listener = match config.listen.grpc.strip_prefix("unix:") {
            Some(path) => listen::unix(Path::new(path), 0o666)?.into(),
            None => {
                let bound = TcpListener::bind(&config.listen.grpc).await;
                bound.with_context(|| format!("could not listen on {}", config.listen.grpc))?.into()
            }
        };
        let incoming = Incoming::new(listener, tls, IncomingLimits::default());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<CredentialServiceServer<Api>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(dayfly_proto::DESCRIPTORS)
            .build_v1()
            .context("reflection")?;
        let most = self.broker.limits.message_bytes;
        let credentials = CredentialServiceServer::new(api.clone()).max_decoding_message_size(most);
        let nodes = NodeServiceServer::new(api.clone()).max_decoding_message_size(most);
        let approvals = ApprovalServiceServer::new(api.clone())
            .max_decoding_message_size(most)
            .max_encoding_message_size(MAX_ADMIN_ANSWER);
        let keys = KeyServiceServer::new(api.clone())
            .max_decoding_message_size(most)
            .max_encoding_message_size(MAX_ADMIN_ANSWER);
        let router = Server::builder()
            .concurrency_limit_per_connection(usize::try_from(self.broker.limits.calls_per_connection)?)
            .http2_keepalive_interval(Some(std::time::Duration::from_secs(20)))
            .tcp_nodelay(true)
            .add_service(credentials)
            .add_service(nodes)
            .add_service(approvals)
            .add_service(keys)
            .add_service(admin_server(api.clone()))
            .add_service(revocation_server(api.clone()))
            .add_service(question_server(api))
            .add_service(health_service)
            .add_service(reflection);
        let stopped = self.stop.clone().cancelled_owned();
        self.servers.spawn(async move {
            if let Err(error) = router.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(error = &error as &dyn std::error::Error, "gRPC stopped");
            }
        });
        Ok(())
    }

    async fn serve_break_glass(&self, config: &Config) -> anyhow::Result<()> {
        let Some(path) = &config.listen.break_glass else { return Ok(()) };
        let listener: UnixListener = listen::unix(path, 0o600)?;
        let api = Api { broker: Arc::clone(&self.broker), callers: None };
        let router = Server::builder()
            .add_service(admin_server(api.clone()))
            .add_service(revocation_server(api.clone()))
            .add_service(question_server(api));
        let stopped = self.stop.clone().cancelled_owned();
        self.servers.spawn(async move {
            let served =
                router.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped).await;
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "the break-glass socket stopped");
            }
        });
        Ok(())
    }

    async fn serve_public(&self, config: &Config, signer: &Arc<dyn Signer>) -> anyhow::Result<()> {
        let Some(address) = config.issuer.listen else { return Ok(()) };
        let endpoints = Endpoints::of(config.introspection.as_ref(), config.token_exchange.as_ref());
        let discovery = Discovery::new(config.issuer.url.clone(), Arc::clone(signer), endpoints);
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let stop = self.stop.clone();
        self.servers.spawn(async move { discovery.serve(listener, stop).await });
        Ok(())
    }

    async fn serve_introspection(
        &self,
        config: &Config,
        identity: &Identity,
        signer: &Arc<dyn Signer>,
    ) -> anyhow::Result<()> {
        let Some(introspection) = &config.introspection else { return Ok(()) };
        let address = introspection.listen;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let introspector = self.introspector(config, signer);
        let (identity, accepted, stop) = (identity.clone(), self.accepted()?, self.stop.clone());
        self.servers.spawn(async move {
            let served =
                introspection::serve(Arc::new(introspector), identity, accepted, listener, stop).await;
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "introspection stopped");
            }
        });
        Ok(())
    }

    fn introspector(&self, config: &Config, signer: &Arc<dyn Signer>) -> Introspector {
        let ledger: Arc<dyn Ledger> = Arc::<Broker>::clone(&self.broker);
        let metrics = self.broker.metrics.introspection.clone();
        Introspector::new(ledger, Arc::clone(signer), config.issuer.url.clone(), metrics)
    }

    async fn serve_token_exchange(
        &self,
        config: &Config,
        identity: &Identity,
        signer: &Arc<dyn Signer>,
    ) -> anyhow::Result<()> {
        let Some(configured) = &config.token_exchange else { return Ok(()) };
        let address = configured.listen;
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let endpoint = TokenEndpoint {
            broker: Arc::clone(&self.broker),
            introspector: self.introspector(config, signer),
            issuer: config.issuer.url.url(Use::Access).to_owned(),
        };
        let (identity, accepted, stop) = (identity.clone(), self.accepted()?, self.stop.clone());
        self.servers.spawn(async move {
            if let Err(error) = exchange::serve(endpoint, identity, accepted, listener, stop).await {
                tracing::error!(error = &error as &dyn std::error::Error, "the token exchange stopped");
            }
        });
        Ok(())
    }

    async fn serve_metrics(&self, config: &Config) -> anyhow::Result<()> {
        let Some(address) = config.listen.metrics else { return Ok(()) };
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("could not listen on {address}"))?;
        let broker = Arc::clone(&self.broker);
        let route = axum::routing::get(move || async move {
            (
                [("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")],
                broker.metrics.encode(),
            )
        });
        let stopped = self.stop.clone().cancelled_owned();
        let router = axum::Router::new().route("/metrics", route);
        self.servers.spawn(async move {
            if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
                tracing::error!(error = &error as &dyn std::error::Error, "metrics stopped");
            }
        });
        Ok(())
    }
}

fn admin_server(api: Api) -> AdminServiceServer<Api> {
    AdminServiceServer::new(api)
        .max_decoding_message_size(MAX_ADMIN_REQUEST)
        .max_encoding_message_size(MAX_ADMIN_ANSWER)
}

fn revocation_server(api: Api) -> RevocationServiceServer<Api> {
    let most = api.broker.limits.message_bytes;
    RevocationServiceServer::new(api)
        .max_decoding_message_size(most)
        .max_encoding_message_size(MAX_ADMIN_ANSWER)
}

fn question_server(api: Api) -> QuestionServiceServer<Api> {
    QuestionServiceServer::new(api)
        // A proposal to simulate may be as large as one to apply.
        .max_decoding_message_size(MAX_ADMIN_REQUEST)
        .max_encoding_message_size(MAX_ADMIN_ANSWER)
}

/// Opens key files before anything else: a wrong owner or mode is a refusal to start.
fn key_files(config: &Config) -> anyhow::Result<Option<FileKeys>> {
    config.keys.dir.as_deref().map(FileKeys::open).transpose().context("the signing keys")
}

async fn open_store(config: &Config) -> anyhow::Result<Arc<dyn Store>> {
    let writer = &config.state.writer;
    match (&config.state.dir, &config.state.postgres) {
        (Some(dir), None) => {
            Ok(Arc::new(SqliteStore::open(dir, writer, Options::default()).await.context("the state")?))
        }
        (_, Some(postgres)) => {
            let options = postgres.options()?;
            Ok(Arc::new(PostgresStore::open(&options, writer).await.context("the state")?))
        }
        (None, None) => bail!("state: name a folder in dir, or a database in postgres"),
    }
}

/// Asks until the Workload API says who the broker is. What a configuration cannot mend by waiting is an error.
async fn wait_for_identity(config: &Config) -> anyhow::Result<Identity> {
    loop {
        match learn_identity(config).await {
            Ok(identity) => return Ok(identity),
            Err(error) => match error.downcast_ref::<IdentityError>() {
                Some(IdentityError::Unreachable { .. } | IdentityError::NoEntry { .. }) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "no identity yet: nothing is granted, break-glass is served");
                    tokio::time::sleep(IDENTITY_PAUSE).await;
                }
                _ => return Err(error),
            },
        }
    }
}

async fn learn_identity(config: &Config) -> anyhow::Result<Identity> {
    let pick = match &config.identity.spiffe_id {
        Some(id) => Pick::Id(dayfly_client::SpiffeId::new(id.as_str()).context("identity.spiffe_id")?),
        None => Pick::Sole,
    };
    let options = IdentityOptions { pick, ..IdentityOptions::default() };
    let learnt = Identity::from_workload_api(config.identity.workload_api.as_deref(), options).await;
    learnt.context("the broker's own identity")
}

async fn build_catalogue(
    config: &Config,
    identity: &Identity,
    own: &SpiffeId,
    signer: &Arc<dyn Signer>,
    deny: DenyParts,
) -> anyhow::Result<Catalogue> {
    let reserved = reserved(config, own);
    let options = TokenOptions { dev: config.dev, introspection: config.introspection.is_some() };
    let token = TokenProvider::new(Arc::clone(signer), config.issuer.url.clone(), reserved, options);
    let mut catalogue = Catalogue::default().with(Arc::new(token)).with(Arc::new(ArtifactProvider));
    if let Some(vault) = &config.vault {
        let provider = VaultProvider::start(vault.clone(), identity.clone()).await.context("vault")?;
        catalogue = catalogue.with(Arc::new(provider));
    }
    if let Some(aws) = &config.aws {
        let provider = AwsProvider::new(aws, &config.issuer.url, Arc::clone(signer)).context("aws")?;
        let provider = provider.denying(aws, deny).context("aws.revoker")?;
        provider.start().await.context("the deny documents")?;
        catalogue = catalogue.with(Arc::new(provider));
    }
    Ok(catalogue)
}

/// Audiences that are kept for something else, whatever kind of token asks.
fn reserved(config: &Config, own: &SpiffeId) -> Reserved {
    let federation = config.aws.iter().map(|aws| aws.audience.clone());
    Reserved::new(config.issuer.url.clone(), own.clone(), federation)
}

fn receipts(config: &Config, own: &SpiffeId, signer: &Arc<dyn Signer>) -> Receipts {
    let accepted = config.trust_domain.iter().map(|domain| domain.name.clone()).collect();
    let issuers = config.issuer.url.clone();
    Receipts::new(Arc::clone(signer), issuers, reserved(config, own), accepted, config.dev)
}
