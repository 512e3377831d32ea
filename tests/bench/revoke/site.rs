//! All of Dayfly on real SPIRE and Vault, with one scope that reads a secret and one that is given certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use harness::world::{deployed, vault_documents};
use harness::{Program, Uid, World, WorldOptions};
use serde_json::{Value, json};

use super::probe::Probe;
use crate::exchange::name_of;

/// What a task is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A token that reads a secret.
    Secret,
    /// A token, and a certificate with a lease that was asked for with it.
    Certificate,
}

impl Kind {
    /// The scope.
    pub fn scope(self) -> &'static str {
        match self {
            Kind::Secret => "kb-read",
            Kind::Certificate => "leaf-issue",
        }
    }

    /// The token role at Vault, and the policy of its tokens.
    pub fn role(self) -> (&'static str, &'static str) {
        match self {
            Kind::Secret => ("dayfly-kb-read", "kb-read"),
            Kind::Certificate => ("dayfly-leaf-issue", "leaf-issue"),
        }
    }
}

const CERTIFICATES: &str = r#"
kind: Scope
metadata: {name: leaf-issue}
spec:
  stages: [retrieval]
  ttl: {default: 5m, max: 1h}
  target: {vault: {role: dayfly-leaf-issue, policies: [leaf-issue], explicit_max_ttl: 8h, kinds: [dynamic]}}
---
kind: Binding
metadata: {name: retrieval-leaf}
spec: {identities: ["spiffe://example.org/retrieval/**"], scope: leaf-issue, start: root}
"#;

/// All of it, running.
pub struct Site {
    world: World,
    uid: Uid,
    vault: SocketAddr,
    root: Arc<str>,
}

impl Site {
    /// Starts everything.
    ///
    /// # Errors
    /// Whatever does not start.
    pub async fn start() -> anyhow::Result<Self> {
        let mut world = World::start(WorldOptions { vault: true, ..WorldOptions::default() }).await?;
        enable_certificates(&world).await?;
        world.apply(&vault_documents()?).await?;
        world.apply(CERTIFICATES).await?;
        let uid = world.workload("/retrieval/bench").await?;
        let vault = world.vault.as_ref().context("it was asked for")?;
        Ok(Self { vault: vault.address(), root: vault.root_token().into(), uid, world })
    }

    /// `vault` and its version.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn peer_name(&self) -> anyhow::Result<String> {
        name_of(self.world.vault.as_ref().context("it was asked for")?).await
    }

    /// This very program as a workload under `dayfly run`, and where it has to report.
    ///
    /// # Errors
    /// When a binary is not there.
    pub fn workload(&self, kind: Kind) -> anyhow::Result<(Program, PathBuf)> {
        let report = self.world.scratch.join(format!("slot-{}.sock", rand::random::<u32>()));
        let program = self
            .world
            .dayfly(self.uid)?
            .args(["run", "--scope", kind.scope(), "--"])
            .arg(std::env::current_exe()?)
            .args([
                "workload",
                "--kind",
                if kind == Kind::Secret { "secret" } else { "certificate" },
                "--report",
            ])
            .arg(&report);
        Ok((program, report))
    }

    /// A measurer that looks again after this pause.
    pub fn probe(&self, pause: Duration) -> Probe {
        Probe { vault: self.vault, root: Arc::clone(&self.root), pause }
    }

    /// Waits until every lease is over, and says how they ended.
    ///
    /// # Errors
    /// When one was not verified as taken back.
    pub async fn proof(&mut self) -> anyhow::Result<String> {
        let until = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let leases = self.world.leases().await?;
            let open = leases.iter().filter(|lease| lease.state != "ended").count();
            if open > 0 && std::time::Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            let verified = leases.iter().filter(|lease| lease.outcome == "verified").count();
            ensure!(
                verified == leases.len(),
                "{verified} of {} leases are verified\n{}",
                leases.len(),
                self.world.logs()
            );
            return Ok(format!("{verified} leases, each verified as taken back."));
        }
    }
}

/// A PKI engine with leases, a role for its tokens, and the broker's word at Vault to use that role.
async fn enable_certificates(world: &World) -> anyhow::Result<()> {
    let vault = world.vault.as_ref().context("it was asked for")?;
    let (role, policy) = Kind::Certificate.role();
    vault.enable_pki("leaf").await?;
    vault.write_policy(policy, r#"path "pki/issue/leaf" { capabilities = ["update"] }"#).await?;
    let mut spec: Value = serde_json::from_str(&deployed("vault/token-role-dayfly-kb-read.json")?)?;
    spec["allowed_policies"] = json!([policy]);
    vault.write_token_role(role, spec).await?;
    let mint = deployed("vault/policy-dayfly-mint.hcl")?;
    let mint = format!(
        "{mint}\npath \"auth/token/create/{role}\" {{ capabilities = [\"update\"] }}\npath \"auth/token/roles/{role}\" {{ capabilities = [\"read\"] }}\npath \"sys/policies/acl/{policy}\" {{ capabilities = [\"read\"] }}\n"
    );
    vault.write_policy("dayfly-mint", &mint).await
}
