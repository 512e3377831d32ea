//! One measurement: something ends, and the same request at Vault that was granted just before is asked again until it is
//! refused. Each runs on a thread of its own, so that nothing else of the bench delays its clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use http::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::life::Life;
use super::site::Kind;
use crate::http::Http;

/// Nothing may work for longer than this: Dayfly's own tokens live so long if nobody renews them.
const MUST_END: Duration = Duration::from_secs(30);

/// What is needed to measure at Vault.
#[derive(Clone)]
pub struct Probe {
    /// Where it listens.
    pub vault: SocketAddr,
    /// The token that may do everything.
    pub root: Arc<str>,
    /// Between two looks.
    pub pause: Duration,
}

impl Probe {
    /// Kills the process alone; from its exit to the refusal.
    ///
    /// # Errors
    /// When the credential did not work before, or still works long after.
    pub async fn death(&self, life: Life, together: Option<Arc<Barrier>>) -> anyhow::Result<Duration> {
        let this = self.clone();
        on_its_own(move || async move {
            let mut look = match (&life.held.token, &life.held.certificate) {
                (Some(token), _) => Look::secret(&this, token).await?,
                (None, Some(lease)) => Look::lease(&this, lease).await?,
                (None, None) => anyhow::bail!("the task holds nothing"),
            };
            look.must_be_granted().await?;
            meet(together).await;
            dayfly_sys::pidfd::kill(&life.pidfd)?;
            dayfly_sys::pidfd::exited(&life.pidfd).await?;
            let exit = Instant::now();
            look.until_refused(exit, this.pause).await
        })
        .await
    }

    /// Vault's own way, for a token of the same role: from the call of revoke-accessor to the refusal.
    ///
    /// # Errors
    /// As [`Self::death`].
    pub async fn vaults_own(&self, kind: Kind, together: Option<Arc<Barrier>>) -> anyhow::Result<Duration> {
        let this = self.clone();
        on_its_own(move || async move {
            let mut http = Http::connect(this.vault).await?;
            let (role, policy) = kind.role();
            let body = json!({ "policies": [policy], "ttl": "5m" });
            let created =
                http.api(Method::POST, &format!("auth/token/create/{role}"), &this.root, &body).await?;
            let token = created["auth"]["client_token"].as_str().context("no token")?;
            let accessor = created["auth"]["accessor"].as_str().context("no accessor")?;
            let mut look = match kind {
                Kind::Secret => Look::secret(&this, token).await?,
                Kind::Certificate => {
                    let body = json!({ "common_name": "a.example.org", "ttl": "5m" });
                    let leaf = http.api(Method::POST, "pki/issue/leaf", token, &body).await?;
                    Look::lease(&this, leaf["lease_id"].as_str().context("no lease")?).await?
                }
            };
            look.must_be_granted().await?;
            let body = json!({ "accessor": accessor });
            meet(together).await;
            let called = Instant::now();
            let revoked = http.api(Method::POST, "auth/token/revoke-accessor", &this.root, &body);
            let (revoked, refused) = tokio::join!(revoked, look.until_refused(called, this.pause));
            revoked?;
            refused
        })
        .await
    }
}

/// A request at Vault that is granted as long as something lives there.
struct Look {
    http: Http,
    method: Method,
    path: &'static str,
    token: String,
    body: Bytes,
    /// Vault's status once it is gone.
    refused: u16,
}

impl Look {
    /// Reads the secret with the real token: 403 once that is gone.
    async fn secret(probe: &Probe, token: &str) -> anyhow::Result<Self> {
        let http = Http::connect(probe.vault).await?;
        let (path, token) = ("secret/data/kb/a", token.to_owned());
        Ok(Self { http, method: Method::GET, path, token, body: Bytes::new(), refused: 403 })
    }

    /// Looks a lease up as root: 400, "invalid lease", once that is gone.
    async fn lease(probe: &Probe, lease: &str) -> anyhow::Result<Self> {
        let http = Http::connect(probe.vault).await?;
        let (path, token) = ("sys/leases/lookup", probe.root.to_string());
        let body = Bytes::from(json!({ "lease_id": lease }).to_string());
        Ok(Self { http, method: Method::PUT, path, token, body, refused: 400 })
    }

    async fn status(&mut self) -> anyhow::Result<(u16, Bytes)> {
        self.http.ask(self.method.clone(), self.path, &self.token, self.body.clone()).await
    }

    async fn must_be_granted(&mut self) -> anyhow::Result<()> {
        let (status, body) = self.status().await?;
        ensure!(
            status == 200,
            "{} was not granted before: {status}: {}",
            self.path,
            String::from_utf8_lossy(&body)
        );
        Ok(())
    }

    /// The time from `since` until the answer that refuses was there.
    async fn until_refused(&mut self, since: Instant, pause: Duration) -> anyhow::Result<Duration> {
        loop {
            let (status, body) = self.status().await?;
            let passed = since.elapsed();
            if status == self.refused {
                return Ok(passed);
            }
            let words = || serde_json::from_slice::<Value>(&body).unwrap_or_default();
            ensure!(status == 200, "neither granted nor refused: {status}: {}", words());
            ensure!(passed < MUST_END, "{} is still granted after {passed:?}", self.path);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

async fn meet(together: Option<Arc<Barrier>>) {
    if let Some(together) = together {
        together.wait().await;
    }
}

async fn on_its_own<T, F>(work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<T>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>>,
{
    let thread = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(work())
    });
    thread.await.context("a measurement broke off")?
}
