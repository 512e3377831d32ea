//! JWT-SVIDs: the process's own, for one audience, and other people's, verified offline against the live bundles.

use std::{
    fmt::{self, Debug, Formatter},
    time::SystemTime,
};

use spiffe::{JwtSvid, JwtSvidError, SpiffeId, TrustDomain};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::identity::{Identity, IdentityError};

/// A JWT-SVID of this process. Prints no token.
pub struct OwnJwt {
    /// The token, to be shown to its audience only.
    pub token: Zeroizing<String>,
    /// When it runs out.
    pub expires_at: SystemTime,
}

impl Debug for OwnJwt {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnJwt").field("token", &"···").field("expires_at", &self.expires_at).finish()
    }
}

/// What a JWT-SVID proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedJwt {
    /// Its subject.
    pub spiffe_id: SpiffeId,
    /// When it runs out.
    pub expires_at: SystemTime,
    /// The key that signed it (`kid`).
    pub key_id: String,
}

/// Why a JWT-SVID proves nothing. No variant holds the token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JwtError {
    /// There are no keys to verify with: our trouble, not the caller's.
    #[error("JWT-SVIDs cannot be verified now")]
    NoKeys {
        /// What failed.
        #[source]
        source: IdentityError,
    },
    /// Malformed, not signed by its trust domain, expired, or for somebody else.
    #[error("the JWT-SVID is not valid here; fetch a new one for the audience {audience}")]
    Invalid {
        /// The audience it must have.
        audience: String,
        /// What is wrong with it.
        #[source]
        source: JwtSvidError,
    },
    /// A token for several audiences can be replayed by each to the others.
    #[error("the JWT-SVID names {count} audiences; it must name {audience} alone")]
    NotSole {
        /// The audience it must have.
        audience: String,
        /// How many it has.
        count: usize,
    },
    /// Valid in a trust domain that is not accepted here.
    #[error(
        "the trust domain {trust_domain} is not accepted here; add it to the accepted trust domains if it should be"
    )]
    TrustDomain {
        /// The subject's trust domain.
        trust_domain: TrustDomain,
    },
    /// A trust domain is no workload.
    #[error("the JWT-SVID's subject {id} has no path")]
    NoPath {
        /// The subject.
        id: SpiffeId,
    },
}

impl Identity {
    /// Fetches a JWT-SVID of this process for one audience. Each call asks the Workload API.
    ///
    /// # Errors
    /// The Workload API gives none.
    pub async fn jwt_svid(&self, audience: &str) -> Result<OwnJwt, IdentityError> {
        let source = self.jwt_source().await?;
        let svid = source
            .fetch_jwt_svid_with_id([audience], Some(self.spiffe_id()))
            .await
            .map_err(|source| IdentityError::Jwt { source })?;
        Ok(OwnJwt { token: Zeroizing::new(svid.token().to_owned()), expires_at: svid.expiry().into() })
    }

    /// Verifies somebody's JWT-SVID: signature, time, subject in an accepted trust domain, `audience` as the sole one.
    ///
    /// # Errors
    /// Whatever is wrong with it; [`JwtError::NoKeys`] where the fault is ours.
    pub async fn verify_jwt_svid(
        &self,
        token: &str,
        audience: &str,
        accepted: &[TrustDomain],
    ) -> Result<VerifiedJwt, JwtError> {
        let keys = self.jwt_source().await.map_err(|source| JwtError::NoKeys { source })?;
        let svid = JwtSvid::parse_and_validate(token, keys, &[audience])
            .map_err(|source| JwtError::Invalid { audience: audience.to_owned(), source })?;
        if svid.audience().len() != 1 {
            return Err(JwtError::NotSole { audience: audience.to_owned(), count: svid.audience().len() });
        }
        let id = svid.spiffe_id();
        if !accepted.contains(id.trust_domain()) {
            return Err(JwtError::TrustDomain { trust_domain: id.trust_domain().clone() });
        }
        if id.path().is_empty() {
            return Err(JwtError::NoPath { id: id.clone() });
        }
        Ok(VerifiedJwt {
            spiffe_id: id.clone(),
            expires_at: svid.expiry().into(),
            key_id: svid.key_id().to_owned(),
        })
    }
}
