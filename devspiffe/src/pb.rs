//! What `build.rs` generates from `proto/`, and the `Debug` of the messages that carry secrets.

use std::fmt;

/// The SPIFFE Workload API.
#[allow(missing_docs, clippy::all, reason = "generated; the definitions carry the documentation")]
pub(crate) mod workload {
    tonic::include_proto!("_");
}

/// SPIRE's Delegated Identity API and the types it shares with the rest of SPIRE.
// The nesting follows the protobuf packages: generated code refers to its siblings by it.
#[allow(missing_docs, clippy::all, reason = "generated; the definitions carry the documentation")]
pub(crate) mod spire {
    pub(crate) mod api {
        pub(crate) mod types {
            tonic::include_proto!("spire.api.types");
        }
        pub(crate) mod agent {
            pub(crate) mod delegatedidentity {
                pub(crate) mod v1 {
                    tonic::include_proto!("spire.api.agent.delegatedidentity.v1");
                }
            }
        }
    }
}

pub(crate) use spire::api::agent::delegatedidentity::v1 as delegated;
pub(crate) use spire::api::types;

impl fmt::Debug for workload::X509svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for workload::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

impl fmt::Debug for workload::ValidateJwtsvidRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValidateJwtsvidRequest").field("audience", &self.audience).finish_non_exhaustive()
    }
}

impl fmt::Debug for types::Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwtsvid").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for delegated::X509svidWithKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509svidWithKey").field("x509_svid", &self.x509_svid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{delegated, types, workload};

    #[test]
    fn no_key_or_token_is_shown_by_debug() {
        let key = vec![251, 252, 253];
        let token = || "header.claims.signature".to_owned();
        let x509 = workload::X509svid { x509_svid_key: key.clone(), ..Default::default() };
        let shown = [
            format!("{:?}", workload::X509svidResponse { svids: vec![x509], ..Default::default() }),
            format!("{:?}", workload::Jwtsvid { svid: token(), ..Default::default() }),
            format!("{:?}", workload::ValidateJwtsvidRequest { svid: token(), ..Default::default() }),
            format!("{:?}", types::Jwtsvid { token: token(), ..Default::default() }),
            format!("{:?}", delegated::X509svidWithKey { x509_svid_key: key, ..Default::default() }),
        ];
        for shown in shown {
            assert!(!shown.contains("251, 252") && !shown.contains("signature"), "{shown}");
        }
    }
}
