//! SPIRE's Delegated Identity API: a trusted process fetches the SVIDs of others, named by pid or selectors.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spiffe::SpiffeId;
use tonic::{Request, Response, Status};

use crate::attest::{Facts, PinnedProcess};
use crate::jwt::unix_seconds;
use crate::pb::delegated as pb;
use crate::pb::delegated::delegated_identity_server::DelegatedIdentity;
use crate::pb::types;
use crate::state::{Shared, Update, Updates, follow, no_identity};
use crate::workload_api::{must_name_audience, peer_of};

pub(crate) struct DelegatedIdentityApi {
    pub(crate) shared: Arc<Shared>,
}

/// Whose SVIDs a delegate asks for.
enum Subject {
    /// A process, to be attested here.
    Process(PinnedProcess),
    /// What the delegate says it has attested itself.
    Selectors(Facts),
}

#[tonic::async_trait]
impl DelegatedIdentity for DelegatedIdentityApi {
    type SubscribeToX509SVIDsStream = Updates<pb::SubscribeToX509sviDsResponse>;
    type SubscribeToX509BundlesStream = Updates<pb::SubscribeToX509BundlesResponse>;
    type SubscribeToJWTBundlesStream = Updates<pb::SubscribeToJwtBundlesResponse>;

    async fn subscribe_to_x509svi_ds(
        &self,
        request: Request<pb::SubscribeToX509sviDsRequest>,
    ) -> Result<Response<Self::SubscribeToX509SVIDsStream>, Status> {
        let peer = peer_of(&request);
        self.shared.must_be_delegate(&peer)?;
        let asked = request.into_inner();
        let subject = Subject::parse(asked.pid, &asked.selectors)?;
        let stream = follow(Arc::clone(&self.shared), move |shared| {
            shared.must_be_delegate(&peer)?;
            x509_svids(shared, &subject.facts()?)
        })?;
        Ok(Response::new(stream))
    }

    async fn subscribe_to_x509_bundles(
        &self,
        request: Request<pb::SubscribeToX509BundlesRequest>,
    ) -> Result<Response<Self::SubscribeToX509BundlesStream>, Status> {
        let peer = peer_of(&request);
        let stream = follow(Arc::clone(&self.shared), move |shared| {
            shared.must_be_delegate(&peer)?;
            let message = pb::SubscribeToX509BundlesResponse { ca_certificates: shared.all_roots() };
            Ok(Update { message, renew_after: None })
        })?;
        Ok(Response::new(stream))
    }

    async fn fetch_jwtsvi_ds(
        &self,
        request: Request<pb::FetchJwtsviDsRequest>,
    ) -> Result<Response<pb::FetchJwtsviDsResponse>, Status> {
        let peer = peer_of(&request);
        let asked = request.into_inner();
        must_name_audience(&asked.audience)?;
        self.shared.must_be_delegate(&peer)?;
        let subject = Subject::parse(asked.pid, &asked.selectors)?;

        let mut svids = Vec::new();
        for entry in self.shared.matching(&subject.facts()?) {
            let issued = self.shared.jwt_svid_of(&entry, &asked.audience)?;
            svids.push(types::Jwtsvid {
                token: issued.token().to_owned(),
                id: Some(to_proto(&entry.spiffe_id)),
                expires_at: unix_seconds(issued.expires_at()).cast_signed(),
                issued_at: unix_seconds(issued.issued_at()).cast_signed(),
                hint: entry.hint,
            });
        }
        if svids.is_empty() {
            return Err(no_identity());
        }
        Ok(Response::new(pb::FetchJwtsviDsResponse { svids }))
    }

    async fn subscribe_to_jwt_bundles(
        &self,
        request: Request<pb::SubscribeToJwtBundlesRequest>,
    ) -> Result<Response<Self::SubscribeToJWTBundlesStream>, Status> {
        let peer = peer_of(&request);
        let stream = follow(Arc::clone(&self.shared), move |shared| {
            shared.must_be_delegate(&peer)?;
            let message = pb::SubscribeToJwtBundlesResponse { bundles: shared.all_jwks() };
            Ok(Update { message, renew_after: None })
        })?;
        Ok(Response::new(stream))
    }
}

impl Subject {
    fn parse(pid: i32, selectors: &[types::Selector]) -> Result<Self, Status> {
        match (pid, selectors) {
            (0, []) | (1.., [_, ..]) | (..0, _) => {
                Err(Status::invalid_argument("must provide either selectors or non-zero PID, but not both"))
            }
            (0, selectors) => Ok(Self::Selectors(facts_from(selectors)?)),
            (pid, []) => PinnedProcess::open(pid).map(Self::Process).map_err(|error| {
                tracing::info!(pid, %error, "the process that was asked for is gone");
                no_identity()
            }),
        }
    }

    fn facts(&self) -> Result<Facts, Status> {
        match self {
            Self::Process(process) => process.observe().map_err(|_| no_identity()),
            Self::Selectors(facts) => Ok(facts.clone()),
        }
    }
}

/// Reads the selectors that SPIRE's unix attestor gives. Unknown ones match no entry here and are passed over.
fn facts_from(selectors: &[types::Selector]) -> Result<Facts, Status> {
    let mut facts = Facts { pid: None, uid: None, gid: None, path: None };
    let unparsable = |_| Status::invalid_argument("could not parse provided selectors");
    for selector in selectors.iter().filter(|selector| selector.r#type == "unix") {
        match selector.value.split_once(':') {
            Some(("uid", id)) => facts.uid = Some(id.parse().map_err(unparsable)?),
            Some(("gid", id)) => facts.gid = Some(id.parse().map_err(unparsable)?),
            Some(("path", path)) => facts.path = Some(PathBuf::from(path)),
            _ => {}
        }
    }
    Ok(facts)
}

/// As SPIRE does, a subject without an identity gets an empty list here, not a refusal: one may come.
fn x509_svids(shared: &Shared, facts: &Facts) -> Result<Update<pb::SubscribeToX509sviDsResponse>, Status> {
    let mut x509_svids = Vec::new();
    let mut soonest: Option<Duration> = None;
    for entry in shared.matching(facts) {
        let (issued, renew_after) = shared.x509_svid_of(&entry)?;
        soonest = Some(soonest.map_or(renew_after, |soonest| soonest.min(renew_after)));
        x509_svids.push(pb::X509svidWithKey {
            x509_svid: Some(types::X509svid {
                cert_chain: vec![issued.certificate_der().to_vec()],
                id: Some(to_proto(&entry.spiffe_id)),
                expires_at: unix_seconds(issued.not_after()).cast_signed(),
                hint: entry.hint,
            }),
            x509_svid_key: issued.key_der().to_vec(),
        });
    }
    let mut federates_with: Vec<String> = shared.federated_roots().into_keys().collect();
    federates_with.sort();
    let message = pb::SubscribeToX509sviDsResponse { x509_svids, federates_with };
    Ok(Update { message, renew_after: soonest })
}

fn to_proto(id: &SpiffeId) -> types::Spiffeid {
    types::Spiffeid { trust_domain: id.trust_domain_name().to_owned(), path: id.path().to_owned() }
}
