//! MinIO: an STS that checks a web identity token against our discovery document and key set, and an S3 that enforces
//! the session policy.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::parts;
use crate::ports::free_port;
use crate::process::{Program, Running};
use crate::python::Python;
use crate::scratch::Scratch;

const ROOT_USER: &str = "harness";
const ROOT_PASSWORD: &str = "harness-root-password";

/// A running MinIO with one role for web identities.
#[derive(Debug)]
pub struct Minio {
    port: u16,
    role_arn: String,
    server: Running,
    _scratch: Scratch,
}

impl Minio {
    /// Starts it. The issuer must be up: MinIO reads `discovery_url` and the key set named there at its start, and refuses
    /// to go on without. `client_id` is the one audience it takes.
    ///
    /// # Errors
    /// When MinIO was not built or does not start; with the tail of its log.
    pub async fn start(discovery_url: &str, client_id: &str) -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let (port, console) = (free_port(), free_port());
        let program = Program::new(parts::peer("minio", "minio")?)
            .arg("server")
            .arg(scratch.folder("data", 0o700)?)
            .args([
                "--address",
                &format!("127.0.0.1:{port}"),
                "--console-address",
                &format!("127.0.0.1:{console}"),
            ])
            .env("HOME", scratch.path())
            .env("MINIO_ROOT_USER", ROOT_USER)
            .env("MINIO_ROOT_PASSWORD", ROOT_PASSWORD)
            .env("MINIO_BROWSER", "off")
            .env("MINIO_UPDATE", "off")
            .env("MINIO_IDENTITY_OPENID_CONFIG_URL", discovery_url)
            .env("MINIO_IDENTITY_OPENID_CLIENT_ID", client_id)
            .env("MINIO_IDENTITY_OPENID_ROLE_POLICY", "readwrite");
        let mut server = program.start(&scratch.join("minio.log"))?;
        let log = server.log_path().to_owned();
        let url = format!("http://127.0.0.1:{port}/minio/health/ready");
        let role_arn = server
            .ready(Duration::from_secs(60), || async {
                let status = reqwest::get(&url).await?.status();
                ensure!(status.is_success(), "it answers {status}");
                role_arn(&std::fs::read_to_string(&log)?).context("it has not printed its role ARN")
            })
            .await?;
        Ok(Self { port, role_arn, server, _scratch: scratch })
    }

    /// The address of both S3 and STS.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The role that a web identity assumes; its own policy is `readwrite`, the session policy narrows it.
    #[must_use]
    pub fn role_arn(&self) -> &str {
        &self.role_arn
    }

    /// Runs Python as root of this MinIO, with `s3` (a boto3 client) at hand; returns what it prints.
    ///
    /// # Errors
    /// When the script fails.
    pub async fn as_root(&self, script: &str) -> anyhow::Result<String> {
        let script = format!(
            "import boto3, os\ns3 = boto3.client('s3', endpoint_url=os.environ['ENDPOINT'])\n{script}"
        );
        let program =
            Python::find()?.script(&script).env("ENDPOINT", self.url()).env("AWS_REGION", "us-east-1");
        program.env("AWS_ACCESS_KEY_ID", ROOT_USER).env("AWS_SECRET_ACCESS_KEY", ROOT_PASSWORD).output().await
    }

    /// What it has logged up to now.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}

fn role_arn(log: &str) -> Option<String> {
    let start = log.find("arn:minio:iam:::role/")?;
    let arn: String =
        log[start..].chars().take_while(|letter| !letter.is_whitespace() && *letter != '\x1b').collect();
    // The line may not be written to its end yet.
    (log.len() > start + arn.len()).then_some(arn)
}
