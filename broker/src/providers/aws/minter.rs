//! Trades assertions of ours for sessions.

use std::sync::Arc;

use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityOutput;
use dayfly_domain::secret::Secret;
use serde_json::Value;

use super::client::{Ask, Sts};
use super::config::{AwsConfig, AwsConfigError};
use super::errors::CallError;
use crate::public::Issuers;
use crate::signer::{SignError, Signer, Use};

/// Who signs, and which STS is asked.
pub(super) struct Minter {
    issuers: Issuers,
    audience: String,
    region: String,
    endpoint: String,
    pub(super) sts: Sts,
    signer: Arc<dyn Signer>,
}

/// What to assume.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) role_arn: &'a str,
    pub(super) session_name: &'a str,
    pub(super) policy: &'a str,
    pub(super) seconds: i32,
}

impl Minter {
    pub(super) fn new(
        config: &AwsConfig,
        issuers: &Issuers,
        signer: Arc<dyn Signer>,
    ) -> Result<Self, AwsConfigError> {
        let of_aws = || format!("https://sts.{}.amazonaws.com", config.region);
        Ok(Self {
            issuers: issuers.clone(),
            audience: config.audience.clone(),
            region: config.region.clone(),
            endpoint: config.endpoint_url.clone().unwrap_or_else(of_aws),
            sts: Sts::new(config)?,
            signer,
        })
    }

    /// `iss` of what is signed for a purpose.
    pub(super) fn issuer(&self, purpose: Use) -> &str {
        self.issuers.url(purpose)
    }

    pub(super) fn audience(&self) -> &str {
        &self.audience
    }

    pub(super) fn region(&self) -> &str {
        &self.region
    }

    /// Where STS is asked.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) async fn sign(&self, purpose: Use, claims: &Value) -> Result<Secret, SignError> {
        self.signer.sign(purpose, purpose.typ(), claims).await.map(Secret::new)
    }

    /// Signs, and asks STS once.
    pub(super) async fn assume(
        &self,
        purpose: Use,
        claims: &Value,
        wanted: Wanted<'_>,
    ) -> Result<AssumeRoleWithWebIdentityOutput, CallError> {
        let assertion = self.sign(purpose, claims).await.map_err(|error| CallError::Unmade(error.into()))?;
        self.trade(&assertion, wanted).await
    }

    /// Asks STS once.
    pub(super) async fn trade(
        &self,
        assertion: &Secret,
        wanted: Wanted<'_>,
    ) -> Result<AssumeRoleWithWebIdentityOutput, CallError> {
        let Wanted { role_arn, session_name, policy, seconds } = wanted;
        self.sts.assume(Ask { role_arn, session_name, assertion: assertion.expose(), policy, seconds }).await
    }
}
