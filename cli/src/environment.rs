//! What a program in a task finds in its environment: the agent's variables, and nothing that would win over them.
//!
//! SDKs look in several places and take the first answer. A static key left in the environment would be used instead of
//! the task's credential without a word, so what stands before it is taken away: for AWS where the task has an AWS
//! address, for Vault where it has a Vault address. Everything else is the program's own and stays.

use std::collections::{BTreeMap, HashMap};

/// Variables that AWS SDKs ask before the container credentials address (boto3 "Credentials", AWS SDKs and Tools
/// Reference Guide "Standardized credential providers"), and the one that replaces that address.
const BEFORE_AWS: [&str; 13] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Variables that clients of Vault and OpenBao ask before `VAULT_ADDR` and `VAULT_TOKEN`, or that lead past that
/// address (vault/api `ReadEnvironment`, openbao/api the same with `BAO_`).
const BEFORE_VAULT: [&str; 10] = [
    "VAULT_ADDR",
    "VAULT_TOKEN",
    "VAULT_AGENT_ADDR",
    "VAULT_PROXY_ADDR",
    "VAULT_HTTP_PROXY",
    "BAO_ADDR",
    "BAO_TOKEN",
    "BAO_AGENT_ADDR",
    "BAO_PROXY_ADDR",
    "BAO_HTTP_PROXY",
];

const AWS_ADDRESS: &str = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
const AWS_FILE: &str = "AWS_SHARED_CREDENTIALS_FILE";
const VAULT_ADDRESS: &str = "VAULT_ADDR";

/// How the program's environment differs from ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Variables that are set.
    pub set: BTreeMap<String, String>,
    /// Variables that are taken away.
    pub removed: Vec<&'static str>,
}

/// Puts the agent's variables in place. `has` says whether a variable is set now.
pub fn changes(from_agent: HashMap<String, String>, has: impl Fn(&str) -> bool) -> Changes {
    let mut set: BTreeMap<String, String> = from_agent.into_iter().collect();
    let mut shadows: Vec<&'static str> = Vec::new();
    if set.contains_key(AWS_ADDRESS) {
        shadows.extend(BEFORE_AWS);
        // A profile in ~/.aws/credentials is asked before the address too.
        set.entry(AWS_FILE.to_owned()).or_insert_with(|| "/dev/null".to_owned());
    }
    if set.contains_key(VAULT_ADDRESS) {
        shadows.extend(BEFORE_VAULT);
    }
    shadows.retain(|name| !set.contains_key(*name) && has(name));
    Changes { set, removed: shadows }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_static_key_does_not_win_over_the_tasks_credential() {
        let changes = changes(
            agent(&[(AWS_ADDRESS, "http://127.0.0.1:1/t"), ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "t")]),
            |_| true,
        );
        assert!(changes.removed.contains(&"AWS_ACCESS_KEY_ID") && changes.removed.contains(&"AWS_PROFILE"));
        assert!(!changes.removed.contains(&"AWS_CONTAINER_AUTHORIZATION_TOKEN"), "it is the agent's own");
        assert!(
            !changes.removed.iter().any(|name| name.contains("VAULT")),
            "no Vault address, so Vault's stay"
        );
        assert_eq!(changes.set[AWS_FILE], "/dev/null");
    }

    #[test]
    fn a_vault_token_of_old_goes_with_the_address() {
        let changes = changes(agent(&[("VAULT_ADDR", "http://127.0.0.1:2")]), |name| {
            name == "VAULT_TOKEN" || name == "AWS_PROFILE"
        });
        assert_eq!(changes.removed, ["VAULT_TOKEN"]);
    }

    #[test]
    fn a_task_with_neither_leaves_the_environment_alone() {
        let changes = changes(agent(&[("DAYFLY_TOKEN_FILE", "/run/x")]), |_| true);
        assert!(changes.removed.is_empty());
        assert_eq!(changes.set.len(), 1);
    }
}
