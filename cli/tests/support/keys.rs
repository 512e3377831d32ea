//! A broker's KeyService over keys that stand still.

use dayfly_client::v1::{self, key_service_server as service};
use tonic::{Request, Response, Status};

use super::admin::FakeBroker;

type Answer<T> = Result<Response<T>, Status>;

/// What the fake was asked.
#[derive(Default)]
pub struct Asked {
    pub rotated: Vec<String>,
    pub compromised: Vec<v1::CompromiseKeyRequest>,
}

fn at(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp { seconds: 1_800_000_000 + seconds, nanos: 0 })
}

fn key(kid: &str, state: &str, place: &str) -> v1::Key {
    v1::Key {
        r#use: "access".into(),
        kid: kid.into(),
        algorithm: "ES256".into(),
        state: state.into(),
        announced_at: at(0),
        place: place.into(),
        ..v1::Key::default()
    }
}

fn keys() -> Vec<v1::Key> {
    vec![
        v1::Key { since: at(60), ..key("k0", "compromised", "") },
        v1::Key { until: at(420), ..key("k1", "retiring", "access.1800000000.pk8") },
        v1::Key { since: at(60), ..key("k2", "active", "access.1800000001.pk8") },
        v1::Key { until: at(720), ..key("k3", "announced", "access.\u{1b}[2J.pk8") },
    ]
}

#[tonic::async_trait]
impl service::KeyService for FakeBroker {
    async fn list_keys(&self, _: Request<v1::ListKeysRequest>) -> Answer<v1::ListKeysResponse> {
        Ok(Response::new(v1::ListKeysResponse { keys: keys() }))
    }

    async fn rotate_key(&self, rpc: Request<v1::RotateKeyRequest>) -> Answer<v1::RotateKeyResponse> {
        self.with(|state| state.keys.rotated.push(rpc.into_inner().r#use));
        Ok(Response::new(v1::RotateKeyResponse { keys: keys() }))
    }

    async fn retire_key(&self, _: Request<v1::RetireKeyRequest>) -> Answer<v1::RetireKeyResponse> {
        Ok(Response::new(v1::RetireKeyResponse {
            key: Some(v1::Key {
                since: at(90),
                ..key("k3", "retired", "transit/keys/dayfly-access version 3")
            }),
            by_hand: "as an administrator of Vault: vault write …".into(),
        }))
    }

    async fn compromise_key(
        &self,
        rpc: Request<v1::CompromiseKeyRequest>,
    ) -> Answer<v1::CompromiseKeyResponse> {
        let asked = rpc.into_inner();
        let state = if asked.dry_run { "active" } else { "compromised" };
        self.with(|known| known.keys.compromised.push(asked));
        let party = |party: &str, scopes: &[&str], todo: &str| v1::KeyConsequence {
            party: party.into(),
            scopes: scopes.iter().map(|name| (*name).to_owned()).collect(),
            todo: todo.into(),
        };
        Ok(Response::new(v1::CompromiseKeyResponse {
            key: Some(v1::Key { since: at(60), ..key("k2", state, "access.pk8") }),
            consequences: vec![
                party(
                    "service https://index.example",
                    &["index-read", "index-write"],
                    "read the keys anew now",
                ),
                party("service https://db.example", &["db-read"], ""),
            ],
            by_hand: String::new(),
            successor: None,
        }))
    }
}
