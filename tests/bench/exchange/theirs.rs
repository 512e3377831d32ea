//! A client of Vault that creates tokens of a role, again and again.

use anyhow::ensure;
use harness::Vault;
use http::Method;
use hyper::body::Bytes;

use super::site::ROLE;
use crate::http::Http;
use crate::load::Caller;

/// One caller: its connection, and Vault's own root token, which no policy has to be evaluated for.
pub struct Creator {
    http: Http,
    token: String,
    path: String,
    body: Bytes,
}

impl Creator {
    /// As many as are wanted, each with an open connection.
    ///
    /// # Errors
    /// When Vault does not answer.
    pub async fn many(vault: &Vault, callers: usize) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::with_capacity(callers);
        for _ in 0..callers {
            all.push(Self {
                http: Http::connect(vault.address()).await?,
                token: vault.root_token().to_owned(),
                path: format!("auth/token/create/{ROLE}"),
                body: Bytes::from_static(br#"{"policies":["kb-read"],"ttl":"5m"}"#),
            });
        }
        Ok(all)
    }
}

impl Caller for Creator {
    type Answer = (u16, Bytes);

    async fn ask(&mut self) -> anyhow::Result<Self::Answer> {
        self.http.ask(Method::POST, &self.path, &self.token, self.body.clone()).await
    }

    fn keep(&mut self, (status, body): Self::Answer) -> anyhow::Result<()> {
        ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}
