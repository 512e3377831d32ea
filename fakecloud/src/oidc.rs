//! Identity providers of the account, and where their keys come from.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::answer::Refusal;

/// A provider, as `CreateOpenIDConnectProvider` makes it.
#[derive(Clone, Debug)]
pub(crate) struct Provider {
    /// The issuer.
    pub(crate) url: String,
    pub(crate) client_ids: Vec<String>,
    /// Keys that are given need not be fetched.
    pub(crate) is_given: bool,
    /// The last key set seen. AWS keeps key sets for an unknown time; here one is kept until a key is not in it.
    pub(crate) keys: Vec<Value>,
}

impl Provider {
    /// The issuer without its scheme: the name in ARNs and condition keys.
    pub(crate) fn name(&self) -> &str {
        self.url.split_once("://").map_or(self.url.as_str(), |(_, name)| name)
    }

    /// The key with this id, or the only one there is.
    pub(crate) fn key(&self, id: Option<&str>) -> Option<&Value> {
        match (id, self.keys.as_slice()) {
            (None, [one]) => Some(one),
            (None, _) => None,
            (Some(id), keys) => keys.iter().find(|key| key["kid"] == id),
        }
    }
}

/// Reads an issuer's discovery document and key set. Plain http only: where an issuer has TLS, its keys are given.
///
/// # Errors
/// `IDPCommunicationError`, and `InvalidIdentityToken` where the document is another issuer's.
pub(crate) async fn fetch(issuer: &str) -> Result<Vec<Value>, Refusal> {
    let discovery =
        get(&format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))).await?;
    if discovery["issuer"] != issuer {
        return Err(Refusal::new(
            400,
            "InvalidIdentityToken",
            "Issuer of the discovery document does not match",
        ));
    }
    let keys = get(discovery["jwks_uri"].as_str().unwrap_or_default()).await?;
    Ok(keys["keys"].as_array().cloned().unwrap_or_default())
}

async fn get(url: &str) -> Result<Value, Refusal> {
    let silent = || Refusal::new(400, "IDPCommunicationError", format!("could not read {url}"));
    let read = async {
        let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
        let answer = client.get(url.parse().map_err(|_| silent())?).await.map_err(|_| silent())?;
        if !answer.status().is_success() {
            return Err(silent());
        }
        let body = Limited::new(answer.into_body(), 256 * 1024).collect().await.map_err(|_| silent())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| silent())
    };
    tokio::time::timeout(Duration::from_secs(5), read).await.map_err(|_| silent())?
}
