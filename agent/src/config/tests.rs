//! What a configuration file may and may not say.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::*;

const LEAST: &str = r#"
[agent]
spiffe_id = "spiffe://prod.example/node/n1"
[broker]
address = "broker.internal:7443"
spiffe_id = "spiffe://prod.example/dayfly/broker"
"#;

fn read(text: &str, vars: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let vars = vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Config::read(text.parse().unwrap(), vars).map_err(|faults| faults.iter().map(Fault::to_string).collect())
}

#[test]
fn the_least_that_must_be_said_is_three_names() {
    let config = read(LEAST, &[]).unwrap();
    assert_eq!(config.audience(), "spiffe://prod.example/dayfly/broker?via=spiffe://prod.example/node/n1");
    assert_eq!(config.socket_mode, 0o666);
    assert_eq!(config.anchors, Anchors::Auto);
    assert!(config.metrics.is_none() && config.log.json);
    assert!(config.native.aws_listen.ip().is_loopback());
}

#[test]
fn all_faults_are_told_at_once_with_their_path() {
    let text = r#"
        stray = 1
        [agent]
        spiffe_id = "spiffe://prod.example"
        socket = "relative.sock"
        socket_mode = "0999"
        colour = "red"
        [attest]
        in_flight = 0
        [tasks]
        anchor = "pod"
        drain = "soon"
        [native]
        aws_listen = "0.0.0.0:80"
        vault_address = "http://vault.internal:8200"
        [metrics]
        listen = 9
        [log]
        format = "xml"
    "#;
    let faults = read(text, &[]).unwrap_err();
    for path in [
        "stray",
        "agent.spiffe_id",
        "agent.socket",
        "agent.socket_mode",
        "agent.colour",
        "broker.address",
        "broker.spiffe_id",
        "attest.in_flight",
        "tasks.anchor",
        "tasks.drain",
        "native.aws_listen",
        "native.vault_address",
        "metrics.listen",
        "log.format",
    ] {
        let found = faults.iter().filter(|fault| fault.starts_with(&format!("{path}: "))).count();
        assert_eq!(found, 1, "{path} in {faults:#?}");
    }
    assert_eq!(faults.len(), 14, "{faults:#?}");
}

#[test]
fn the_environment_replaces_the_file_and_unknown_keys_in_it_are_refused() {
    let vars = [
        ("DAYFLY_BROKER__ADDRESS", "127.0.0.1:1"),
        ("DAYFLY_LIMITS__CONNECTIONS", "7"),
        ("DAYFLY_AGENT__MOUNT_MEMORY_FS", "true"),
        ("DAYFLY_TASK_ID", "not a key"),
        ("DAYFLY_STORE__PATH", "the broker's"),
    ];
    let config = read(LEAST, &vars).unwrap();
    assert_eq!(config.broker.address().to_string(), "127.0.0.1:1");
    assert_eq!(config.limits.connections, 7);
    assert!(config.mount_memory_fs);
    let faults = read(LEAST, &[("DAYFLY_BROKER__ADDRES", "x")]).unwrap_err();
    assert_eq!(faults, ["broker.addres: unknown key; remove it or correct its name"]);
}

#[test]
fn a_development_trust_domain_needs_a_development_build() {
    for id in ["spiffe://dev.dayfly/broker", "spiffe://dev/broker"] {
        let read = read(LEAST, &[("DAYFLY_BROKER__SPIFFE_ID", id)]);
        assert_eq!(read.is_ok(), cfg!(feature = "dev"), "{id}");
    }
    let developer = [("DAYFLY_BROKER__SPIFFE_ID", "spiffe://developer.example/broker")];
    assert!(read(LEAST, &developer).is_ok());
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    fs::write(&path, LEAST).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(Config::load(&path).is_ok());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    assert!(matches!(Config::load(&path), Err(ConfigError::Writable { .. })));
}
