use super::*;

const WHOLE: &str = r#"
[identity]
workload_api = "unix:/run/spire/agent.sock"

[listen]
grpc = "127.0.0.1:7443"

[state]
dir = "/var/lib/dayfly"

[keys]
dir = "/etc/dayfly/keys"

[[trust_domain]]
name = "example.org"
stages = ["training", "node"]
patterns = ["spiffe://example.org/**"]

[admins]
root = ["spiffe://example.org/admin/ann"]

[issuer]
url = "https://dayfly.example.org"
"#;

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::read(Path::new("broker.toml"), text, environment).map_err(|error| error.to_string())
}

#[test]
fn the_environment_lies_over_the_file() {
    let config = read(
        WHOLE,
        &[("DAYFLY_LIMITS__LAPSE_AFTER", "10s"), ("DAYFLY_STATE__WRITER", "b2"), ("DAYFLY_BROKER", "x")],
    );
    let config = config.expect("valid");
    assert_eq!(config.limits.lapse_after.as_seconds(), 10);
    assert_eq!(config.state.writer, "b2");
}

#[test]
fn unknown_keys_are_refused_by_name() {
    for (text, key) in [
        (format!("{WHOLE}\ncolour = 1"), "colour"),
        (WHOLE.replace("[state]", "[state]\nflavour = 2"), "flavour"),
        (format!("{WHOLE}\n[limits]\nlapse = \"1s\""), "lapse"),
    ] {
        let error = read(&text, &[]).expect_err("an unknown key");
        assert!(error.contains(key), "{error}");
    }
    assert!(read(WHOLE, &[("DAYFLY_LIMITS__LAPSE", "1s")]).is_err());
}

#[test]
fn all_faults_are_told_at_once() {
    let text = WHOLE
        .replace("/etc/dayfly/keys", "/var/lib/dayfly/keys")
        .replace("spiffe://example.org/admin/ann", "spiffe://other.org/ann")
        .replace("spiffe://example.org/**", "spiffe://third.org/**")
        .replace("grpc =", "metrics = \"0.0.0.0:9000\"\ngrpc =");
    let error = read(&text, &[]).expect_err("four faults");
    for part in ["keys.dir", "admins.root", "another trust domain", "loopback"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn development_trust_domains_are_refused_outside_dev() {
    let error = read(&WHOLE.replace("example.org", "dev.dayfly"), &[]).expect_err("a dev trust domain");
    assert!(error.contains("development"), "{error}");
}

#[test]
fn a_federated_domain_never_fills_admin_or_node() {
    let config = read(WHOLE, &[]).expect("valid");
    assert!(config.faults_as("example.org").is_empty());
    assert!(config.faults_as("other.org").iter().any(|fault| fault.contains("federated")));
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("broker.toml");
    std::fs::write(&path, WHOLE).expect("the folder is writable");
    for (mode, taken) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("it is ours");
        assert_eq!(Config::load(&path).is_ok(), taken, "{mode:o}");
    }
}
