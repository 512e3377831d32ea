//! `KeyService`, over mTLS alone.

use dayfly_domain::id::RequestId;
use dayfly_domain::key::KeyState;
use dayfly_proto::v1;
use dayfly_proto::v1::key_service_server::KeyService;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, peer_of, status, wire};
use crate::operations::admin::{Admin, Verb, admit};
use crate::operations::key;
use crate::signer::{KeyRow, Use};

/// Longest reason that goes on record, in characters.
const MAX_REASON: usize = 512;

type Answer<T> = Result<Response<T>, Status>;

impl Api {
    fn keeper<T>(&self, rpc: &Rpc<T>, verb: Verb) -> Result<(RequestId, Admin), Status> {
        let request = self.new_request_id();
        let admitted = admit(&self.broker, &*peer_of(rpc, request)?, verb);
        admitted.map(|admin| (request, admin)).map_err(|error| status::of(error, request))
    }
}

#[tonic::async_trait]
impl KeyService for Api {
    async fn list_keys(&self, rpc: Rpc<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        let (id, _) = self.keeper(&rpc, Verb::Read)?;
        let rows = key::list(&self.broker).map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::ListKeysResponse { keys: rows.into_iter().map(told).collect() }))
    }

    async fn rotate_key(&self, rpc: Rpc<v1::RotateKeyRequest>) -> Answer<v1::RotateKeyResponse> {
        let (id, admin) = self.keeper(&rpc, Verb::Key)?;
        let purpose = Use::from_name(&rpc.get_ref().r#use).ok_or_else(|| {
            let next = "the uses are access, federation and receipt";
            status::invalid("KEY_USE_UNKNOWN", "there is no such use of keys", next, id)
        })?;
        let broker = std::sync::Arc::clone(&self.broker);
        // To its end though the admin hangs up: half of it is a key that nobody was told of.
        let rotated =
            self.broker.run_to_end(async move { key::rotate(&broker, &admin, id, purpose).await }, |_| {
                std::future::ready(())
            });
        let rotated = rotated.await.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::RotateKeyResponse { keys: rotated.into_iter().map(told).collect() }))
    }

    async fn retire_key(&self, rpc: Rpc<v1::RetireKeyRequest>) -> Answer<v1::RetireKeyResponse> {
        let (id, admin) = self.keeper(&rpc, Verb::Key)?;
        let (broker, kid) = (std::sync::Arc::clone(&self.broker), rpc.into_inner().kid);
        let taken =
            self.broker.run_to_end(async move { key::retire(&broker, &admin, id, &kid).await }, |_| {
                std::future::ready(())
            });
        let taken = taken.await.map_err(|error| status::of(error, id))?;
        Ok(Response::new(v1::RetireKeyResponse {
            key: Some(told(taken.key)),
            by_hand: taken.by_hand.join("\n"),
        }))
    }

    async fn compromise_key(&self, rpc: Rpc<v1::CompromiseKeyRequest>) -> Answer<v1::CompromiseKeyResponse> {
        let (id, admin) = self.keeper(&rpc, Verb::Key)?;
        let (broker, asked) = (std::sync::Arc::clone(&self.broker), rpc.into_inner());
        let reason: String = asked.reason.chars().take(MAX_REASON).collect();
        let taken = self.broker.run_to_end(
            async move { key::compromise(&broker, &admin, id, &asked.kid, &reason, asked.dry_run).await },
            |_| std::future::ready(()),
        );
        let taken = taken.await.map_err(|error| status::of(error, id))?;
        let consequences = taken.consequences.into_iter().map(|one| v1::KeyConsequence {
            party: one.party,
            scopes: one.scopes,
            todo: one.todo,
        });
        Ok(Response::new(v1::CompromiseKeyResponse {
            key: Some(told(taken.key)),
            consequences: consequences.collect(),
            by_hand: taken.by_hand.join("\n"),
            successor: taken.successor.map(told),
        }))
    }
}

fn told(row: KeyRow) -> v1::Key {
    let withheld = row.facts.withheld.map(|withheld| withheld.at);
    let (since, until) = match row.state {
        KeyState::Announced { usable_from } => (None, Some(usable_from)),
        KeyState::Active { since } => (Some(since), None),
        KeyState::Retiring { until } => (None, Some(until)),
        KeyState::Retired | KeyState::Compromised => (withheld, None),
    };
    // The first key of a use is there since before anybody could read it.
    let begun = |at: &dayfly_domain::time::Timestamp| at.unix_millis() != 0;
    v1::Key {
        r#use: row.purpose.name().to_owned(),
        kid: row.facts.kid.clone(),
        algorithm: row.purpose.algorithm().to_owned(),
        state: row.state.name().to_owned(),
        announced_at: Some(row.facts.announced_at).filter(begun).map(wire::time),
        since: since.filter(begun).map(wire::time),
        until: until.map(wire::time),
        place: row.held.map(|held| held.place).unwrap_or_default(),
    }
}
