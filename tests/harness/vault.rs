//! A real Vault: raft storage, a file audit device, unsealed, with the engines the scenarios ask for.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::parts;
use crate::ports::free_port;
use crate::process::{Program, Running};
use crate::scratch::Scratch;
use crate::wait::eventually;

const START: Duration = Duration::from_secs(60);

/// A running Vault.
#[derive(Debug)]
pub struct Vault {
    port: u16,
    root_token: String,
    unseal_key: String,
    server: Option<Running>,
    http: reqwest::Client,
    scratch: Scratch,
}

impl Vault {
    /// Starts, initialises and unseals it; some 6 s.
    ///
    /// # Errors
    /// When Vault was not built or does not start; with the tail of its log.
    pub async fn start() -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        scratch.folder("raft", 0o700)?;
        let (port, cluster) = (free_port(), free_port());
        let folder = scratch.path().display();
        let config = format!(
            r#"storage "raft" {{ path = "{folder}/raft" node_id = "one" performance_multiplier = 1 }}
listener "tcp" {{ address = "127.0.0.1:{port}" tls_disable = true }}
api_addr = "http://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
disable_mlock = true
log_level = "warn"
"#
        );
        scratch.file("vault.hcl", 0o600, config)?;
        let (root_token, unseal_key) = Default::default();
        let mut vault =
            Self { port, root_token, unseal_key, server: None, http: reqwest::Client::new(), scratch };
        vault.run().await?;
        let init = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let (_, keys) = vault.call("", "PUT", "sys/init", Some(init)).await?;
        vault.root_token = keys["root_token"].as_str().context("init gave no root token")?.to_owned();
        vault.unseal_key = keys["keys_base64"][0].as_str().context("init gave no key")?.to_owned();
        vault.unseal().await?;
        let log = vault.audit_log();
        vault
            .api("PUT", "sys/audit/file", json!({ "type": "file", "options": { "file_path": log } }))
            .await?;
        Ok(vault)
    }

    /// The same Vault for somebody else, who may call it, not stop or start it.
    #[must_use]
    pub fn lent(&self) -> Self {
        Self {
            port: self.port,
            root_token: self.root_token.clone(),
            unseal_key: self.unseal_key.clone(),
            server: None,
            http: self.http.clone(),
            scratch: self.scratch.lent(),
        }
    }

    /// Its address, as `VAULT_ADDR` wants it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The same as a socket address, for a proxy.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        std::net::SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The token that may do everything.
    #[must_use]
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// Where every request and answer is recorded, one JSON document a line, secrets as HMACs.
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.scratch.join("audit.log")
    }

    /// One call as root to `/v1/<path>`; anything but 2xx is an error. `Value::Null` sends no body.
    ///
    /// # Errors
    /// When Vault refuses; with its words.
    pub async fn api(&self, method: &str, path: &str, body: Value) -> anyhow::Result<Value> {
        let body = (!body.is_null()).then_some(body);
        let (status, answer) = self.call(&self.root_token, method, path, body).await?;
        ensure!((200..300).contains(&status), "vault: {method} {path}: {status}: {answer}");
        Ok(answer)
    }

    /// One call with any token, or none if it is empty; returns the status and the JSON answer (null if there is none).
    ///
    /// # Errors
    /// When Vault cannot be reached.
    pub async fn call(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<(u16, Value)> {
        let method = reqwest::Method::from_bytes(method.as_bytes())?;
        let mut request = self.http.request(method, format!("{}/v1/{path}", self.url()));
        if !token.is_empty() {
            request = request.header("X-Vault-Token", token);
        }
        if let Some(body) = body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let response = request.timeout(Duration::from_secs(30)).send().await?;
        let status = response.status().as_u16();
        let answer = response.bytes().await?;
        Ok((status, serde_json::from_slice(&answer).unwrap_or(Value::Null)))
    }

    /// The `vault` command, as root of this Vault.
    ///
    /// # Errors
    /// When Vault was not built.
    pub fn cli<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> anyhow::Result<Program> {
        let program = Program::new(parts::peer("vault", "vault")?).args(words);
        Ok(program
            .env("VAULT_ADDR", self.url())
            .env("VAULT_TOKEN", &self.root_token)
            .env("HOME", self.scratch.path()))
    }

    /// A KV version 2 engine at `secret/`.
    ///
    /// # Errors
    /// When Vault refuses.
    pub async fn enable_kv(&self) -> anyhow::Result<()> {
        self.api("POST", "sys/mounts/secret", json!({ "type": "kv", "options": { "version": "2" } })).await?;
        // The mount is upgraded in the background and refuses writes until that is done.
        eventually("the kv engine", START, || {
            self.api("POST", "secret/data/harness/ready", json!({ "data": { "ready": "yes" } }))
        })
        .await
        .map(drop)
    }

    /// A PKI engine at `pki/` whose role `role` issues certificates for any name under `example.org` with a lease.
    ///
    /// # Errors
    /// When Vault refuses.
    pub async fn enable_pki(&self, role: &str) -> anyhow::Result<()> {
        let tune = json!({ "type": "pki", "config": { "max_lease_ttl": "24h" } });
        self.api("POST", "sys/mounts/pki", tune).await?;
        let root = json!({ "common_name": "harness root", "ttl": "24h", "key_type": "ec", "key_bits": 256 });
        self.api("POST", "pki/root/generate/internal", root).await?;
        // Otherwise every revoked lease builds the list anew, which takes longer the more there are.
        self.api("POST", "pki/config/crl", json!({ "auto_rebuild": true })).await?;
        let issue = json!({
            "allowed_domains": "example.org", "allow_subdomains": true, "generate_lease": true,
            "key_type": "ec", "key_bits": 256, "max_ttl": "1h",
        });
        self.api("POST", &format!("pki/roles/{role}"), issue).await.map(drop)
    }

    /// Writes an ACL policy in HCL.
    ///
    /// # Errors
    /// When Vault refuses.
    pub async fn write_policy(&self, name: &str, hcl: &str) -> anyhow::Result<()> {
        self.api("PUT", &format!("sys/policies/acl/{name}"), json!({ "policy": hcl })).await.map(drop)
    }

    /// A named role for `auth/token/create/<name>`; `spec` as Vault's API has it.
    ///
    /// # Errors
    /// When Vault refuses.
    pub async fn write_token_role(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        self.api("POST", &format!("auth/token/roles/{name}"), spec).await.map(drop)
    }

    /// A JWT login at `auth/<mount>` that trusts the `jwt-svid` keys of a SPIFFE bundle (`Spire::bundle_jwks`).
    ///
    /// # Errors
    /// When the bundle holds no P-256 key or Vault refuses.
    pub async fn trust_jwt_svids(&self, mount: &str, bundle: &Value) -> anyhow::Result<()> {
        let keys = bundle["keys"].as_array().context("the bundle has no keys")?;
        let keys = keys
            .iter()
            .filter(|key| key["use"] == "jwt-svid")
            .map(pem_of_jwk)
            .collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!keys.is_empty(), "the bundle has no jwt-svid key");
        self.api("POST", &format!("sys/auth/{mount}"), json!({ "type": "jwt" })).await?;
        let config = json!({ "jwt_validation_pubkeys": keys, "jwt_supported_algs": ["ES256"] });
        self.api("POST", &format!("auth/{mount}/config"), config).await.map(drop)
    }

    /// A role of that login for one SPIFFE ID and one audience.
    ///
    /// # Errors
    /// When Vault refuses.
    pub async fn write_jwt_role(
        &self,
        mount: &str,
        role: &str,
        spiffe_id: &str,
        audience: &str,
        policies: &[&str],
    ) -> anyhow::Result<()> {
        let spec = json!({
            "role_type": "jwt", "user_claim": "sub", "bound_subject": spiffe_id, "bound_audiences": [audience],
            "token_policies": policies, "token_ttl": "10m", "token_max_ttl": "1h",
        });
        self.api("POST", &format!("auth/{mount}/role/{role}"), spec).await.map(drop)
    }

    /// Kills the server with SIGKILL.
    ///
    /// # Errors
    /// When the kernel will not say how it ended.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.server.take().map_or(Ok(()), |mut server| server.kill().map(drop))
    }

    /// Starts a killed server again and unseals it; tokens and leases are as they were.
    ///
    /// # Errors
    /// When it does not start; with the tail of its log.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.kill()?;
        self.run().await?;
        self.unseal().await
    }

    /// The pid of the server, to freeze it or to read its memory's size.
    ///
    /// # Errors
    /// When it was killed.
    pub fn server(&self) -> anyhow::Result<&Running> {
        self.server.as_ref().context("vault was killed")
    }

    async fn run(&mut self) -> anyhow::Result<()> {
        let program = Program::new(parts::peer("vault", "vault")?).args(["server", "-config"]);
        let program = program.arg(self.scratch.join("vault.hcl")).env("HOME", self.scratch.path());
        let mut server = program.start(&self.scratch.join("vault.log"))?;
        server.ready(START, || self.call("", "GET", "sys/seal-status", None)).await?;
        self.server = Some(server);
        Ok(())
    }

    async fn unseal(&mut self) -> anyhow::Result<()> {
        let mut server = self.server.take().context("vault was killed")?;
        self.call("", "PUT", "sys/unseal", Some(json!({ "key": self.unseal_key }))).await?;
        let active = server.ready(START, || async {
            let (status, answer) = self.call("", "GET", "sys/health", None).await?;
            ensure!(status == 200, "{status}: {answer}");
            Ok(())
        });
        let active = active.await;
        self.server = Some(server);
        active
    }
}

/// A P-256 public key as PEM: the fixed head of its SubjectPublicKeyInfo (RFC 5480) and the uncompressed point.
fn pem_of_jwk(key: &Value) -> anyhow::Result<String> {
    const HEAD: [u8; 27] = [
        0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
        0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
    ];
    ensure!(key["crv"] == "P-256", "not a P-256 key: {key}");
    let mut der = HEAD.to_vec();
    for axis in ["x", "y"] {
        let number = URL_SAFE_NO_PAD.decode(key[axis].as_str().context("a key without its point")?)?;
        ensure!(number.len() == 32, "{axis} has {} bytes", number.len());
        der.extend(number);
    }
    let lines: Vec<String> = STANDARD
        .encode(der)
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line).into_owned())
        .collect();
    Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")))
}
