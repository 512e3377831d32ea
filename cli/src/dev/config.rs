//! Writes what broker and agent read. Everything is said here: their environment is empty, so that nothing of the shell,
//! such as the address of a real Vault, gets in.

use std::path::Path;

use super::identities::{AGENT, BROKER, TRUST_DOMAIN};
use super::place::{self, Place};
use super::targets::Targets;
use crate::failure::Failure;

/// The broker's file.
pub const BROKER_FILE: &str = "broker.toml";
/// The agent's file, read by both of its parts.
pub const AGENT_FILE: &str = "agent.toml";

/// Where the jwt login for us is mounted in Vault: not where a real one would be.
pub const VAULT_LOGIN: &str = "dayfly-dev";

const HEAD: &str = "# Written anew by each start of `dayfly dev`; changes are lost.\n";

/// Writes both.
pub fn write(place: &Place, targets: &Targets) -> Result<(), Failure> {
    place::write(&place.kept(BROKER_FILE), &broker(place, targets))?;
    place::write(&place.kept(AGENT_FILE), &agent(place, targets))
}

fn broker(place: &Place, targets: &Targets) -> String {
    let mut text = format!(
        r#"{HEAD}
dev = true

[identity]
workload_api = {workload_api}
spiffe_id = {broker}

[listen]
grpc = {grpc}

[state]
dir = {state}

[keys]
dir = {keys}

[[trust_domain]]
name = {domain}
stages = ["training", "inference", "retrieval", "tool", "admin", "node"]
patterns = [{pattern}]

[admins]
root = [{admin}]
approvals_from_one_host = true

[issuer]
url = {issuer}
listen = {discovery}

[introspection]
listen = {introspection}
url = {introspection_url}

[token_exchange]
listen = {exchange}
url = {exchange_url}
"#,
        workload_api = quoted(&place.endpoint("parts")),
        broker = quoted(BROKER),
        grpc = quoted(&place.endpoint("broker")),
        state = path(&place.kept("state")),
        keys = path(&place.kept("keys")),
        domain = quoted(TRUST_DOMAIN),
        pattern = quoted(&format!("spiffe://{TRUST_DOMAIN}/**")),
        admin = quoted(&place.me.admin()),
        issuer = quoted(&place.issuer()),
        discovery = quoted(&place.discovery.to_string()),
        introspection = quoted(&place.introspection.to_string()),
        introspection_url = quoted(&place.introspection_url()),
        exchange = quoted(&place.exchange.to_string()),
        exchange_url = quoted(&place.exchange_url()),
    );
    if let Some(vault) = &targets.vault {
        let login = quoted(VAULT_LOGIN);
        text += &format!(
            "\n[vault]\naddress = {}\naudience = \"vault\"\nauth_mount = {login}\n",
            quoted(&vault.address)
        );
        if let Some(ca_file) = &vault.ca_file {
            text += &format!("ca_file = {}\n", path(ca_file));
        }
    }
    if let Some(aws) = &targets.aws {
        text +=
            &format!("\n[aws]\nregion = {}\nendpoint_url = {}\n", quoted(&aws.region), quoted(&aws.endpoint));
    }
    text
}

fn agent(place: &Place, targets: &Targets) -> String {
    // Without root no cgroup can be made that a program could be moved into.
    let anchor = if place.me.is_root() { "auto" } else { "process" };
    let mut text = format!(
        r#"{HEAD}
[agent]
spiffe_id = {agent}
workload_api = {workload_api}
socket = {socket}
socket_mode = "0600"
runtime_dir = {memory}
mount_memory_fs = {is_root}

[broker]
address = {grpc}
spiffe_id = {broker}

[attest]
socket = {attest}
spire_admin_socket = {delegated}

[tasks]
anchor = "{anchor}"
# What is developed with ends with it.
on_stop = "end"

[log]
format = "plain"

[native]
"#,
        agent = quoted(AGENT),
        workload_api = quoted(&place.endpoint("parts")),
        socket = path(&place.socket("agent")),
        memory = path(place.memory()),
        is_root = place.me.is_root(),
        grpc = quoted(&place.endpoint("broker")),
        broker = quoted(BROKER),
        attest = path(&place.socket("attest")),
        delegated = quoted(&place.endpoint("delegated")),
    );
    if let Some(aws) = &targets.aws {
        text += &format!("aws_region = {}\n", quoted(&aws.region));
    }
    if let Some(vault) = &targets.vault {
        text += &format!("vault_address = {}\n", quoted(&vault.address));
        if let Some(ca_file) = &vault.ca_file {
            text += &format!("vault_ca_file = {}\n", path(ca_file));
        }
    }
    text
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::super::targets::{Aws, Vault};
    use super::*;

    #[test]
    fn a_path_with_quotes_stays_a_value() {
        let home = tempfile::tempdir().unwrap();
        let place = Place::take(&home.path().join("it's \"mine\"")).unwrap();
        let targets = Targets {
            vault: Some(Vault { address: "http://127.0.0.1:1".into(), ca_file: Some("/a\"b".into()) }),
            aws: Some(Aws { endpoint: "http://127.0.0.1:2".into(), region: "eu-west-1".into() }),
        };
        let broker: toml::Table = broker(&place, &targets).parse().unwrap();
        assert_eq!(broker["state"]["dir"].as_str().unwrap(), place.kept("state").to_str().unwrap());
        assert_eq!(broker["vault"]["ca_file"].as_str(), Some("/a\"b"));
        assert_eq!(broker["dev"].as_bool(), Some(true));
        let agent: toml::Table = agent(&place, &targets).parse().unwrap();
        assert_eq!(agent["native"]["aws_region"].as_str(), Some("eu-west-1"));
        assert_eq!(agent["agent"]["socket"].as_str().unwrap(), place.socket("agent").to_str().unwrap());
    }
}
