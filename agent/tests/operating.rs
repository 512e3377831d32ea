//! What operators read and start from says what the agent does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

use std::os::unix::fs::PermissionsExt;

use dayfly_agent::config::{Anchors, Attest, Config, Limits, OnStop};
use harness::manual::{self, DefaultRow, assert_defaults};

const LEAST: &str = r#"
[agent]
spiffe_id = "spiffe://example.org/node/n1"
[broker]
address = "broker.example.org:7443"
spiffe_id = "spiffe://example.org/dayfly/broker"
"#;

#[test]
fn the_table_of_limits_is_the_agents_own() {
    let config = load(LEAST);
    // By name, so that a new limit does not compile before it is in the table.
    let Limits { connections, connections_per_uid, attestations_per_uid } = config.limits;
    let Attest { socket: _, spire_admin_socket: _, run_uid: _, in_flight } = config.attest;
    let place = "agent.toml";
    let rows = [
        DefaultRow::new("limits.connections", connections, place),
        DefaultRow::new("limits.connections_per_uid", connections_per_uid, place),
        DefaultRow::new("limits.attestations_per_uid", attestations_per_uid, place),
        DefaultRow::new("attest.in_flight", in_flight, place),
        DefaultRow::new("tasks.drain", config.drain, place),
    ];
    assert_defaults(&[place], &rows);
}

#[test]
fn the_example_configuration_is_taken_and_fits_the_units() {
    let config = load(&manual::file("deploy/config/agent.toml").unwrap());
    assert_eq!(config.audience(), "spiffe://example.org/dayfly/broker?via=spiffe://example.org/node/n1");
    assert_eq!(config.anchors, Anchors::Cgroup);
    let unit = |name: &str| manual::file(format!("deploy/systemd/{name}")).unwrap();
    // Who runs `dayfly-agent run`, and in whose folders the sockets lie.
    assert!(config.attest.run_uid == 0 && unit("dayfly-agent.service").contains("\nUser=root\n"));
    assert!(config.socket.starts_with("/run/dayfly"));
    assert!(unit("dayfly-agent.service").contains("\nRuntimeDirectory=dayfly\n"));
    assert!(config.attest.socket.starts_with("/run/dayfly-attest"));
    assert!(unit("dayfly-attest.service").contains("\nRuntimeDirectory=dayfly-attest\n"));
    let tasks = config.runtime_dir.join("tasks");
    assert!(unit("run-dayfly-agent-tasks.mount").contains(&format!("\nWhere={}\n", tasks.display())));
    let admin = manual::file("deploy/spire/agent.conf").unwrap();
    let socket = config.attest.spire_admin_socket.unwrap();
    assert!(admin.contains(&format!("\"{}\"", socket.trim_start_matches("unix:"))), "{socket}");
    // A restart must leave tasks, their cgroups and the journal where they are.
    for line in ["KillMode=process", "Delegate=yes", "RuntimeDirectoryPreserve=yes", "Restart=always"] {
        assert!(unit("dayfly-agent.service").contains(&format!("\n{line}\n")), "{line}");
    }
    assert!(!unit("dayfly-agent.service").contains("ExecStop"), "SIGTERM is what keeps tasks");
    assert_eq!(config.on_stop, OnStop::Keep);
    assert!(config.runtime_dir.starts_with("/run/dayfly"));
    let stop = config.drain.as_secs() * 2;
    assert!(unit("dayfly-agent.service").contains("\nTimeoutStopSec=45\n") && stop < 45, "{stop}");
}

/// Of our own and writable by nobody else, whatever the checkout's modes are.
fn load(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    Config::load(&path).unwrap_or_else(|error| panic!("{error}"))
}
