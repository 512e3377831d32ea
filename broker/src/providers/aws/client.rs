//! Calls to STS. That for a session is not signed: the assertion is all there is to say who asks.

use aws_sdk_sts::config::retry::RetryConfig;
use aws_sdk_sts::config::timeout::TimeoutConfig;
use aws_sdk_sts::config::{AppName, BehaviorVersion, Credentials, Region, SharedHttpClient};
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;
use aws_sdk_sts::{Client, Config};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use tracing::instrument::WithSubscriber;
use tracing::subscriber::NoSubscriber;

use super::config::{AwsConfig, AwsConfigError};
use super::errors::CallError;

/// What to ask for.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) role_arn: &'a str,
    pub(super) session_name: &'a str,
    pub(super) assertion: &'a str,
    pub(super) policy: &'a str,
    pub(super) seconds: i32,
}

/// A connection to STS.
#[derive(Clone, Debug)]
pub(super) struct Sts {
    client: Client,
}

impl Sts {
    /// Made from the configuration alone: no environment variable, no profile, no proxy, no instance role.
    pub(super) fn new(config: &AwsConfig) -> Result<Self, AwsConfigError> {
        let timeout = config.timeout.as_duration();
        let timeouts = TimeoutConfig::builder()
            // Less than the whole, so that a dead address is told from a lost answer.
            .connect_timeout(timeout / 2)
            .operation_timeout(timeout)
            .build();
        let mut builder = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .app_name(AppName::new("dayfly").expect("letters only"))
            .region(Region::new(config.region.clone()))
            .http_client(http_client(config)?)
            // A second try would make a second session, which no lease knows.
            .retry_config(RetryConfig::disabled())
            .timeout_config(timeouts);
        builder.set_endpoint_url(config.endpoint_url.clone());
        Ok(Self { client: Client::from_conf(builder.build()) })
    }

    /// Asks once.
    pub(super) async fn assume(&self, ask: Ask<'_>) -> Result<AssumeRoleWithWebIdentityOutput, CallError> {
        let call = self
            .client
            .assume_role_with_web_identity()
            .role_arn(ask.role_arn)
            .role_session_name(ask.session_name)
            .web_identity_token(ask.assertion)
            .policy(ask.policy)
            .duration_seconds(ask.seconds)
            .send();
        // With LOG_SENSITIVE_BODIES in the environment the SDK logs answers whole, keys and all. It logs nothing.
        Ok(call.with_subscriber(NoSubscriber::default()).await?)
    }

    /// Asks STS something harmless that needs a right, with a session: whether AWS lets it.
    pub(super) async fn try_session(&self, session: &Credentials) -> Result<(), CallError> {
        let as_session = Config::builder().credentials_provider(session.clone());
        let call = self
            .client
            .get_access_key_info()
            .access_key_id(session.access_key_id())
            .customize()
            .config_override(as_session)
            .send();
        call.with_subscriber(NoSubscriber::default()).await?;
        Ok(())
    }
}

fn http_client(config: &AwsConfig) -> Result<SharedHttpClient, AwsConfigError> {
    if config.is_plain() {
        return Ok(Builder::new().build_http());
    }
    let trusted = match config.roots()? {
        Some(pem) => TrustStore::empty().with_pem_certificate(pem),
        None => TrustStore::default(),
    };
    let tls = TlsContext::builder()
        .with_trust_store(trusted)
        .build()
        .expect("building a TLS context cannot fail yet");
    Ok(Builder::new().tls_provider(Provider::rustls(CryptoMode::AwsLc)).tls_context(tls).build_https())
}
