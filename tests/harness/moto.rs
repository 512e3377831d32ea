//! moto: the wire shape of STS, IAM and S3, told by others. It checks nothing, so it proves no revocation.

use std::time::Duration;

use anyhow::ensure;

use crate::ports::free_port;
use crate::process::Running;
use crate::python::Python;
use crate::scratch::Scratch;

/// A running moto server.
#[derive(Debug)]
pub struct Moto {
    port: u16,
    server: Running,
    _scratch: Scratch,
}

impl Moto {
    /// Starts it; some 3 s.
    ///
    /// # Errors
    /// When the Python environment is missing or it does not start; with the tail of its log.
    pub async fn start() -> anyhow::Result<Self> {
        let scratch = Scratch::new()?;
        let port = free_port();
        let program =
            Python::find()?.module("moto.server").args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        let mut server = program.start(&scratch.join("moto.log"))?;
        let url = format!("http://127.0.0.1:{port}/moto-api/data.json");
        server
            .ready(Duration::from_secs(60), || async {
                let status = reqwest::get(&url).await?.status();
                ensure!(status.is_success(), "it answers {status}");
                Ok(())
            })
            .await?;
        Ok(Self { port, server, _scratch: scratch })
    }

    /// Its address, for `endpoint_url`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The requests it has logged up to now.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}
