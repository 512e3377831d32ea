//! What a program in a task needs in its environment, so that its SDKs find what the task was given.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dayfly_proto::v1::{ScopeProvider, ScopeRequest};
use zeroize::Zeroizing;

use crate::credentials::Provider;
use crate::folder::TaskFolder;
use crate::native::{aws, token_file};
use crate::task::{Bearer, Delivery};

/// The AWS endpoint's bearer, in the task's folder.
pub const AWS_BEARER: &str = "aws-authorization";

/// Where things are that an environment names.
#[derive(Clone, Debug)]
pub struct Places {
    /// `127.0.0.1:port` of the AWS endpoint.
    pub aws_host: String,
    /// `127.0.0.1:port` of the Vault endpoint.
    pub vault_host: String,
    /// The operator's AWS region.
    pub aws_region: Option<String>,
    /// Path of the agent's socket.
    pub socket: String,
}

/// Two scopes that a program would look for in the same place.
#[derive(Debug, PartialEq, Eq)]
pub struct SameSlot {
    /// The provider.
    pub provider: &'static str,
    /// The first scope.
    pub first: String,
    /// The second.
    pub second: String,
}

/// What a new task's programs show at the endpoints, in clear. It goes into their environment and files, and is not kept.
pub type Bearers = BTreeMap<&'static str, Zeroizing<String>>;

/// Gives each scope of the ceiling that can be delivered its slot and, where there is one, its bearer.
pub fn deliveries(
    ceiling: &[ScopeRequest],
    providers: &[ScopeProvider],
) -> Result<(BTreeMap<&'static str, Delivery>, Bearers), SameSlot> {
    let mut deliveries: BTreeMap<&'static str, Delivery> = BTreeMap::new();
    let mut bearers = Bearers::new();
    for scope in ceiling {
        let told = providers.iter().find(|told| told.scope == scope.scope);
        let Some(provider) = told.and_then(|told| Provider::from_word(&told.provider)) else { continue };
        let bearer = match provider {
            Provider::Aws => Some(bearer("")),
            Provider::Vault => Some(bearer("dayfly-placeholder.")),
            Provider::Token => None,
        };
        let provider = provider.as_str();
        let kept = bearer.as_ref().map(|bearer| Bearer::of(bearer.as_bytes()));
        bearers.extend(bearer.map(|bearer| (provider, bearer)));
        let bearer = kept;
        if let Some(first) = deliveries.insert(provider, Delivery { scope: scope.clone(), bearer }) {
            return Err(SameSlot { provider, first: first.scope.scope, second: scope.scope.clone() });
        }
    }
    Ok((deliveries, bearers))
}

/// The variables. Files that they name have to be put into `folder` by the caller.
pub fn variables(
    task_id: &str,
    deliveries: &BTreeMap<&'static str, Delivery>,
    bearers: &Bearers,
    folder: Option<&TaskFolder>,
    places: &Places,
) -> HashMap<String, String> {
    let mut vars = HashMap::new();
    let mut set = |name: &str, value: String| {
        vars.insert(name.to_owned(), value);
    };
    set("DAYFLY_TASK_ID", task_id.to_owned());
    set("DAYFLY_AGENT_SOCKET", places.socket.clone());
    let file =
        |name: &str| folder.map(|folder| folder.path_of(name).display().to_string()).unwrap_or_default();
    for provider in deliveries.keys() {
        match Provider::from_word(provider) {
            Some(Provider::Aws) => {
                set("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}{}", places.aws_host, aws::PATH));
                set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file(AWS_BEARER));
                // An SDK that gets a refusal here must not go on to ask the machine for its own role.
                set("AWS_EC2_METADATA_DISABLED", "true".to_owned());
                if let Some(region) = &places.aws_region {
                    set("AWS_REGION", region.clone());
                    set("AWS_DEFAULT_REGION", region.clone());
                }
            }
            Some(Provider::Vault) => {
                set("VAULT_ADDR", format!("http://{}", places.vault_host));
                set(
                    "VAULT_TOKEN",
                    bearers.get(provider).map(|bearer| bearer.to_string()).unwrap_or_default(),
                );
            }
            Some(Provider::Token) => set("DAYFLY_TOKEN_FILE", file(token_file::NAME)),
            None => {}
        }
    }
    vars
}

/// 256 bits from the kernel-seeded generator.
fn bearer(prefix: &str) -> Zeroizing<String> {
    let bits = Zeroizing::new(rand::random::<[u8; 32]>());
    Zeroizing::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(*bits)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    fn scope(name: &str) -> ScopeRequest {
        ScopeRequest { scope: name.to_owned(), parameters: HashMap::default() }
    }

    fn provider(scope: &str, provider: &str) -> ScopeProvider {
        ScopeProvider { scope: scope.to_owned(), provider: provider.to_owned() }
    }

    #[test]
    fn each_provider_has_its_variables_and_unknown_ones_have_none() {
        let ceiling = [scope("s3"), scope("kv"), scope("index"), scope("later")];
        let told = [
            provider("s3", "aws"),
            provider("kv", "vault"),
            provider("index", "token"),
            provider("later", "gcp"),
        ];
        let (deliveries, bearers) = deliveries(&ceiling, &told).unwrap();
        let home = tempfile::tempdir().unwrap();
        let folders = crate::folder::Folders::take(home.path(), false).unwrap();
        let folder = folders.open("T", 0, 0).unwrap();
        let places = Places {
            aws_host: "127.0.0.1:1".to_owned(),
            vault_host: "127.0.0.1:2".to_owned(),
            aws_region: Some("eu-central-1".to_owned()),
            socket: "/run/a.sock".to_owned(),
        };
        let vars = variables("T", &deliveries, &bearers, Some(&folder), &places);
        let mut names: Vec<&str> = vars.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "AWS_DEFAULT_REGION",
                "AWS_EC2_METADATA_DISABLED",
                "AWS_REGION",
                "DAYFLY_AGENT_SOCKET",
                "DAYFLY_TASK_ID",
                "DAYFLY_TOKEN_FILE",
                "VAULT_ADDR",
                "VAULT_TOKEN",
            ]
        );
        assert_eq!(vars["AWS_CONTAINER_CREDENTIALS_FULL_URI"], "http://127.0.0.1:1/v1/aws/credentials");
        assert_eq!(vars["VAULT_ADDR"], "http://127.0.0.1:2");
        // 32 bytes are 43 characters of base64.
        assert_eq!(vars["VAULT_TOKEN"].len(), "dayfly-placeholder.".len() + 43);
        assert_eq!(bearers["aws"].len(), 43);
        assert_eq!(deliveries["vault"].bearer, Some(Bearer::of(vars["VAULT_TOKEN"].as_bytes())));
        assert_eq!(deliveries["token"].bearer, None);
        assert!(vars["DAYFLY_TOKEN_FILE"].ends_with("/tasks/T/token"));
    }

    #[test]
    fn two_scopes_for_one_slot_are_told_apart_from_two_slots() {
        let ceiling = [scope("a"), scope("b")];
        let same = deliveries(&ceiling, &[provider("a", "aws"), provider("b", "aws")]).unwrap_err();
        assert_eq!((same.provider, &*same.first, &*same.second), ("aws", "a", "b"));
        assert_eq!(deliveries(&ceiling, &[provider("a", "aws"), provider("b", "vault")]).unwrap().0.len(), 2);
        let twice = [scope("a"), scope("a")];
        assert!(
            deliveries(&twice, &[provider("a", "aws")]).is_err(),
            "with other parameters it is another credential"
        );
    }

    #[test]
    fn no_two_bearers_are_alike() {
        assert_ne!(bearer(""), bearer(""));
    }
}
