//! A workload that exchanges its X.509-SVID for an access token, again and again.

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_client::{BrokerClient, CallError};
use dayfly_proto::v1;
use dayfly_proto::v1::issue_credential_response::Credential;
use serde::Deserialize;
use tokio_stream::StreamExt as _;
use tonic::Streaming;

use super::site::{SCOPE, Site};
use crate::load::Caller;

/// One caller: its connection, its task, and what it was given.
pub struct Exchanger {
    broker: BrokerClient,
    request: v1::IssueCredentialRequest,
    /// The leases, in the order they were given.
    pub leases: Vec<String>,
    // The task's anchor: while it stands, the task is open.
    _life: Streaming<v1::WatchTaskResponse>,
}

impl Exchanger {
    /// As many as are wanted, each with an open connection and an open task.
    ///
    /// # Errors
    /// When the broker refuses one.
    pub async fn many(site: &Site, callers: usize) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::with_capacity(callers);
        for _ in 0..callers {
            all.push(Self::open(site.connect().await?).await?);
        }
        Ok(all)
    }

    async fn open(broker: BrokerClient) -> anyhow::Result<Self> {
        let scope = v1::ScopeRequest { scope: SCOPE.to_owned(), ..Default::default() };
        let open = v1::OpenTaskRequest { ceiling: vec![scope.clone()], ..Default::default() };
        let task = broker.credentials().open_task(open).await.map_err(CallError::from)?.into_inner();
        let watch = v1::WatchTaskRequest {
            task_id: task.task_id.clone(),
            task_key: task.task_key.clone(),
            ..Default::default()
        };
        let mut life = broker.credentials().watch_task(watch).await.map_err(CallError::from)?.into_inner();
        life.next().await.context("the broker closed the task's stream at once")?.map_err(CallError::from)?;
        let request = v1::IssueCredentialRequest {
            task_id: task.task_id,
            task_key: task.task_key,
            scope: Some(scope),
            ..Default::default()
        };
        Ok(Self { broker, request, leases: Vec::new(), _life: life })
    }
}

impl Caller for Exchanger {
    type Answer = v1::IssueCredentialResponse;

    async fn ask(&mut self) -> anyhow::Result<Self::Answer> {
        let answer = self.broker.credentials().issue_credential(self.request.clone()).await;
        Ok(answer.map_err(CallError::from)?.into_inner())
    }

    fn keep(&mut self, answer: Self::Answer) -> anyhow::Result<()> {
        let Some(Credential::Token(token)) = answer.credential else {
            anyhow::bail!("the answer holds no token")
        };
        let jti = jti_of(&token.access_token)?;
        ensure!(jti == answer.lease_id, "the token says {jti}, its lease is {}", answer.lease_id);
        self.leases.push(answer.lease_id);
        Ok(())
    }
}

fn jti_of(token: &str) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Claims {
        jti: String,
    }
    let body = token.split('.').nth(1).context("the token is no JWT")?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(body)?)?;
    Ok(claims.jti)
}
