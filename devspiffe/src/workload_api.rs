//! The SPIFFE Workload API: a process gets the SVIDs of the entries that match it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value as ProtoValue};
use serde_json::Value;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, SpiffeId, TrustDomain};
use tonic::{Request, Response, Status};

use crate::attest::Peer;
use crate::jwt::unix_seconds;
use crate::pb::workload as pb;
use crate::pb::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use crate::state::{Shared, Update, Updates, follow, no_identity};

/// How far in the future a token may claim to have been issued; what SPIRE's verifier allows.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);

pub(crate) struct WorkloadApi {
    pub(crate) shared: Arc<Shared>,
}

/// SPIFFE Workload Endpoint §3: without this header a request may come from a confused HTTP client, and is refused.
pub(crate) fn require_security_header(request: Request<()>) -> Result<Request<()>, Status> {
    let mut values = request.metadata().get_all("workload.spiffe.io").iter();
    let is_set = values.next().is_some_and(|value| value == "true") && values.next().is_none();
    if is_set { Ok(request) } else { Err(Status::invalid_argument("security header missing from request")) }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Updates<pb::X509svidResponse>;
    type FetchX509BundlesStream = Updates<pb::X509BundlesResponse>;
    type FetchJWTBundlesStream = Updates<pb::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let peer = peer_of(&request);
        let stream = follow(Arc::clone(&self.shared), move |shared| x509_svids(shared, &peer))?;
        Ok(Response::new(stream))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let peer = peer_of(&request);
        let stream = follow(Arc::clone(&self.shared), move |shared| {
            shared.entries_of_caller(&peer)?;
            let message = pb::X509BundlesResponse { crl: Vec::new(), bundles: shared.all_roots() };
            Ok(Update { message, renew_after: None })
        })?;
        Ok(Response::new(stream))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        let peer = peer_of(&request);
        let pb::JwtsvidRequest { audience, spiffe_id } = request.into_inner();
        must_name_audience(&audience)?;
        let only = match spiffe_id.as_str() {
            "" => None,
            text => Some(SpiffeId::new(text).map_err(|error| {
                Status::invalid_argument(format!("invalid requested SPIFFE ID: {error}"))
            })?),
        };

        let mut svids = Vec::new();
        for entry in self.shared.entries_of_caller(&peer)? {
            if only.as_ref().is_some_and(|only| *only != entry.spiffe_id) {
                continue;
            }
            let issued = self.shared.jwt_svid_of(&entry, &audience)?;
            svids.push(pb::Jwtsvid {
                spiffe_id: entry.spiffe_id.to_string(),
                svid: issued.token().to_owned(),
                hint: entry.hint,
            });
        }
        if svids.is_empty() {
            return Err(no_identity());
        }
        Ok(Response::new(pb::JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let peer = peer_of(&request);
        let stream = follow(Arc::clone(&self.shared), move |shared| {
            shared.entries_of_caller(&peer)?;
            Ok(Update { message: pb::JwtBundlesResponse { bundles: shared.all_jwks() }, renew_after: None })
        })?;
        Ok(Response::new(stream))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        let pb::ValidateJwtsvidRequest { audience, svid } = request.into_inner();
        must_name_audience(std::slice::from_ref(&audience))?;
        if svid.is_empty() {
            return Err(Status::invalid_argument("svid must be specified"));
        }
        let verified = JwtSvid::parse_and_validate(&svid, &bundle_set(&self.shared), &[audience])
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let claims = claims_of(verified.token())
            .ok_or_else(|| Status::invalid_argument("the claims are not a JSON object"))?;
        let latest = unix_seconds(SystemTime::now() + CLOCK_LEEWAY);
        let issued_in_future =
            claims.get("iat").is_some_and(|iat| iat.as_f64().is_none_or(|iat| iat > latest as f64));
        if issued_in_future {
            return Err(Status::invalid_argument("token issued in the future"));
        }
        let fields = claims.into_iter().map(|(name, value)| (name, to_proto(value))).collect();
        Ok(Response::new(pb::ValidateJwtsvidResponse {
            spiffe_id: verified.spiffe_id().to_string(),
            claims: Some(Struct { fields }),
        }))
    }
}

/// The SVIDs of every matching entry, to be sent again when the first of them is renewed.
fn x509_svids(shared: &Shared, peer: &Peer) -> Result<Update<pb::X509svidResponse>, Status> {
    let entries = shared.entries_of_caller(peer)?;
    let bundle = shared.own_roots();
    let mut svids = Vec::with_capacity(entries.len());
    let mut soonest = Duration::MAX;
    for entry in entries {
        let (issued, renew_after) = shared.x509_svid_of(&entry)?;
        soonest = soonest.min(renew_after);
        svids.push(pb::X509svid {
            spiffe_id: entry.spiffe_id.to_string(),
            x509_svid: issued.certificate_der().to_vec(),
            x509_svid_key: issued.key_der().to_vec(),
            bundle: bundle.clone(),
            hint: entry.hint,
        });
    }
    let federated_bundles = shared.federated_roots();
    let message = pb::X509svidResponse { svids, crl: Vec::new(), federated_bundles };
    Ok(Update { message, renew_after: Some(soonest) })
}

pub(crate) fn peer_of<T>(request: &Request<T>) -> Peer {
    request.extensions().get::<Peer>().cloned().flatten()
}

pub(crate) fn must_name_audience(audience: &[String]) -> Result<(), Status> {
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(Status::invalid_argument("audience must be specified"));
    }
    Ok(())
}

fn bundle_set(shared: &Shared) -> JwtBundleSet {
    let bundles = shared.all_jwks().into_iter().map(|(trust_domain, jwks)| {
        let trust_domain = TrustDomain::new(trust_domain).expect("it was made from a trust domain");
        JwtBundle::from_jwt_authorities(trust_domain, &jwks)
            .expect("our own JWK sets have a kid in every key")
    });
    bundles.collect()
}

/// The claims of a token whose signature has been verified.
fn claims_of(token: &str) -> Option<serde_json::Map<String, Value>> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

fn to_proto(value: Value) -> ProtoValue {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => Kind::StringValue(text),
        Value::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(to_proto).collect() })
        }
        Value::Object(members) => Kind::StructValue(Struct {
            fields: members.into_iter().map(|(name, value)| (name, to_proto(value))).collect(),
        }),
    };
    ProtoValue { kind: Some(kind) }
}
