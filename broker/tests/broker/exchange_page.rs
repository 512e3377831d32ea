//! The example of `docs/token-exchange.md`, run by a shell as it is written there.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::exchange_site::{Site, TRAINER, claims};
use crate::world::{BROKER_HOST, Setup};

const ISSUER: &str = "https://issuer.example.com";
const URL: &str = "https://dayfly.example.org:8445/token";

const RULES: &str = r#"
kind: Scope
metadata: {name: index-query}
spec:
  stages: [training]
  parameters: {collection: {type: segment}}
  ttl: {default: 2m, max: 5m}
  target: {token: {audience: "spiffe://example.org/svc/corpora", scope: "query/{collection}", checked: introspect}}
---
kind: Binding
metadata: {name: train-query}
spec:
  identities: ["spiffe://example.org/train/*"]
  scope: index-query
  via: direct
  parameters: {collection: [papers-1]}
"#;

/// What SPIRE's command would do for this workload: certificates as files, a JWT-SVID on the second line.
fn stand_in_for_spire(folder: &Path, site: &Site) {
    let (chain, key) = site.certificate(TRAINER);
    let jwt = site.world.jwt(TRAINER, &[format!("{ISSUER}/access")]);
    for (name, text) in [("svid.0.pem", chain), ("svid.0.key", key), ("bundle.0.pem", site.bundle_pem())] {
        std::fs::write(folder.join(format!("spire.{name}")), text).unwrap();
    }
    std::fs::write(folder.join("spire.jwt"), format!("token({TRAINER}):\n\t{jwt}\nbundle(…):\n")).unwrap();
    let script = format!(
        r#"#!/bin/sh
cd {folder} || exit 1
case "$*" in
    "api fetch x509 -write .") for name in svid.0.pem svid.0.key bundle.0.pem; do cp spire.$name $name; done ;;
    "api fetch jwt -audience {ISSUER}/access") cat spire.jwt ;;
    *) echo "spire-agent $*: not what the page was written for" >&2; exit 2 ;;
esac
"#,
        folder = folder.display()
    );
    let program = folder.join("spire-agent");
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(program, PermissionsExt::from_mode(0o700)).unwrap();
}

fn run(folder: &Path) -> Output {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    let example = harness::pages::shell_example("token-exchange.md", "## For itself").unwrap();
    shell.args(["-euo", "pipefail", "-c", &example]).current_dir(folder);
    shell.env("PATH", path).env("CURL_HOME", folder).env("no_proxy", "*");
    shell.output().expect("a shell")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_page_is_answered_as_the_page_says() {
    let setup = Setup { issuer: &format!("url = \"{ISSUER}\""), ..Setup::default() };
    let site = Site::set_up(setup, Some(URL)).await;
    site.world.apply(RULES).await;
    let folder = tempfile::Builder::new().prefix("dfp").tempdir_in("/tmp").unwrap();
    stand_in_for_spire(folder.path(), &site);
    // The name stands for another port of this machine; nothing else of the example is changed.
    let there = format!("silent\nshow-error\nconnect-to = \"{BROKER_HOST}:8445:{}\"\n", site.exchange);
    std::fs::write(folder.path().join(".curlrc"), there).unwrap();
    let place = folder.path().to_owned();
    let done = tokio::task::spawn_blocking(move || run(&place)).await.unwrap();
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{told}");
    let answer: serde_json::Value = serde_json::from_slice(&done.stdout).expect(&told);
    assert_eq!(answer["token_type"], "Bearer", "{answer}");
    assert_eq!(answer["authorization_details"][0]["parameters"]["collection"], "papers-1");
    let token = answer["access_token"].as_str().expect("a token");
    let said = claims(token);
    assert_eq!((said["sub"].as_str(), said["scope"].as_str()), (Some(TRAINER), Some("query/papers-1")));
    assert_eq!(said["iss"], format!("{ISSUER}/access"));
    assert_eq!(site.introspect("spiffe://example.org/svc/corpora", token).await["active"], true);
}
