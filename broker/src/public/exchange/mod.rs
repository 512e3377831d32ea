//! Exchanges tokens over HTTPS (RFC 8693), for callers that do not speak gRPC: a proven identity for an access token.
//!
//! There is no story of its own behind it: what is asked is decided, recorded, leased and revoked as everything else
//! (`operations/exchange.rs`).

mod client_auth;
mod details;
mod form;
mod http_api;
mod refused;

pub use self::http_api::{TokenEndpoint, serve};

use std::net::SocketAddr;

use serde::Deserialize;

use super::issuers::check_url;

/// `[token_exchange]`: where callers without gRPC exchange their identity for an access token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExchangeConfig {
    /// Where it is served, over TLS with SVIDs; clients may show none.
    pub listen: SocketAddr,
    /// How clients reach it (`https://dayfly.internal:8445/token`), to be told in the discovery document.
    pub url: TokenUrl,
}

/// The URL of the token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TokenUrl(String);

impl TokenUrl {
    /// The URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TokenUrl {
    type Error = &'static str;

    fn try_from(url: String) -> Result<Self, Self::Error> {
        if check_url(&url) == Some(true) && url.ends_with(http_api::PATH) {
            Ok(Self(url))
        } else {
            Err(
                "a token endpoint's URL is https://host[:port]/token in lower-case host, without user, query or fragment",
            )
        }
    }
}

/// What OAuth calls what is done here: RFC 8414 §2, RFC 9396 §10, draft-ietf-oauth-spiffe-client-auth §4.
pub(super) fn metadata(document: &mut serde_json::Value, url: &TokenUrl) {
    document["token_endpoint"] = url.as_str().into();
    document["token_endpoint_auth_methods_supported"] = serde_json::json!(["spiffe_x509", "spiffe_jwt"]);
    document["grant_types_supported"] = serde_json::json!([form::GRANT_TYPE]);
    document["authorization_details_types_supported"] = serde_json::json!([details::TYPE]);
}
