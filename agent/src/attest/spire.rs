//! Asks SPIRE's Delegated Identity API, by pid only, for one audience only.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_client::{TrustDomain, chain};
use serde::Deserialize;
use spiffe::JwtSvid;
use spiffe::transport::{GrpcStatusCode, TransportError};
use spire_api::agent::delegated_identity::{
    DelegateAttestationRequest, DelegatedIdentityClient, DelegatedIdentityError,
};
use tokio::sync::Mutex;

use super::wire::{Refused, Svid};

/// SPIRE answers from memory, or asks its server once.
const PATIENCE: Duration = Duration::from_secs(5);

/// The SPIRE agent of this node, asked for the fixed audience.
pub struct Spire {
    endpoint: String,
    audience: String,
    trust_domain: TrustDomain,
    /// Connected at the first question; the channel mends itself afterwards.
    client: Mutex<Option<DelegatedIdentityClient>>,
}

impl Spire {
    /// Nothing is connected yet.
    pub fn new(endpoint: String, audience: String, trust_domain: TrustDomain) -> Self {
        Self { endpoint, audience, trust_domain, client: Mutex::new(None) }
    }

    /// The one JWT-SVID of the process that has this number now. Whether it still is the same process afterwards is the
    /// caller's to check.
    pub async fn svid_of(&self, pid: u32, pidfd_inode: u64) -> Result<Svid, Refused> {
        let svids = match tokio::time::timeout(PATIENCE, self.ask(pid)).await {
            Ok(asked) => asked?,
            Err(_) => return Err(Refused::Unavailable { why: format!("no answer within {PATIENCE:?}") }),
        };
        // Two entries of one SPIFFE ID are one identity.
        let mut spiffe_ids: Vec<String> = svids.iter().map(|svid| svid.spiffe_id().to_string()).collect();
        spiffe_ids.sort();
        spiffe_ids.dedup();
        match (&spiffe_ids[..], svids.first()) {
            ([_], Some(svid)) => self.checked(svid, pidfd_inode),
            ([], _) | (_, None) => Err(Refused::NoEntry),
            _ => Err(Refused::Ambiguous { spiffe_ids }),
        }
    }

    async fn ask(&self, pid: u32) -> Result<Vec<JwtSvid>, Refused> {
        let request = DelegateAttestationRequest::for_pid(pid).map_err(|_| Refused::Gone)?;
        let client = self.client().await?;
        client.fetch_jwt_svids(&[self.audience.as_str()], request).await.map_err(|error| refusal(&error))
    }

    async fn client(&self) -> Result<DelegatedIdentityClient, Refused> {
        let mut client = self.client.lock().await;
        if let Some(client) = &*client {
            return Ok(client.clone());
        }
        let connected = DelegatedIdentityClient::connect_to(&self.endpoint).await;
        let connected = connected.map_err(|error| Refused::Unavailable { why: chain(&error) })?;
        *client = Some(connected.clone());
        Ok(connected)
    }

    fn checked(&self, svid: &JwtSvid, pidfd_inode: u64) -> Result<Svid, Refused> {
        let unusable = |why: &str| Refused::Unusable { why: why.to_owned() };
        if svid.audience() != [self.audience.as_str()] {
            return Err(unusable("its audience is not the one that was asked for"));
        }
        if svid.spiffe_id().trust_domain() != &self.trust_domain {
            return Err(unusable("its subject is of another trust domain than the agent"));
        }
        let issued_at =
            issued_at(svid.token()).ok_or_else(|| unusable("it does not say when it was issued"))?;
        let expires_at =
            u64::try_from(svid.claims().exp()).map_err(|_| unusable("it ran out before 1970"))?;
        Ok(Svid {
            token: svid.token().to_owned(),
            spiffe_id: svid.spiffe_id().to_string(),
            issued_at,
            expires_at,
            pidfd_inode,
        })
    }
}

fn refusal(error: &DelegatedIdentityError) -> Refused {
    match error {
        DelegatedIdentityError::Transport(TransportError::Status(status))
            if status.code() == GrpcStatusCode::PermissionDenied =>
        {
            // SPIRE's own words, pkg/agent/api/delegatedidentity/v1/service.go.
            if status.message().contains("authorized delegate") {
                Refused::NotDelegate
            } else {
                Refused::NoEntry
            }
        }
        DelegatedIdentityError::Transport(_) => Refused::Unavailable { why: chain(error) },
        _ => Refused::Unusable { why: chain(error) },
    }
}

/// RFC 7519 §4.1.6. The `spiffe` crate does not keep the claim. The token came from SPIRE's own socket, so it is read, not
/// verified; that is the broker's to do.
fn issued_at(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        iat: u64,
    }
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice::<Claims>(&payload).ok().map(|claims| claims.iat)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_issue_is_read_from_the_payload() {
        let token = |payload: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(
            issued_at(&token(r#"{"sub":"spiffe://a/b","iat":1700000000,"exp":1}"#)),
            Some(1_700_000_000)
        );
        for broken in [token("{}"), token(r#"{"iat":"x"}"#), "a".to_owned(), "a.!.c".to_owned()] {
            assert_eq!(issued_at(&broken), None, "{broken}");
        }
    }
}
