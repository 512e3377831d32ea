//! Where the broker is and who it must be: from flags, the environment and the configuration file, in this order.

use std::future::Future;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;
use dayfly_client::v1::admin_service_client::AdminServiceClient;
use dayfly_client::v1::approval_service_client::ApprovalServiceClient;
use dayfly_client::v1::key_service_client::KeyServiceClient;
use dayfly_client::v1::question_service_client::QuestionServiceClient;
use dayfly_client::v1::revocation_service_client::RevocationServiceClient;
use dayfly_client::{BreakGlassClient, BrokerClient, BrokerEndpoint, Identity, IdentityOptions};
use dayfly_domain::document;
use serde::Deserialize;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::failure::Failure;

/// Room for documents of the largest size, to apply or to simulate, and what stands around them.
const MAX_REQUEST_BYTES: usize = document::MAX_INPUT + 64 * 1024;

/// How admin verbs reach the broker.
#[derive(Args, Debug)]
#[command(next_help_heading = "Connection of admin verbs")]
pub struct ConnectArgs {
    /// Where the broker listens: HOST:PORT or unix:/PATH
    #[arg(long, global = true, env = "DAYFLY_BROKER", value_name = "ADDRESS")]
    broker: Option<String>,
    /// The broker's exact SPIFFE ID; whoever else answers is not spoken to. May be given more than once
    #[arg(long, global = true, env = "DAYFLY_BROKER_ID", value_name = "SPIFFE_ID", value_delimiter = ',')]
    broker_id: Vec<String>,
    /// The Workload API that gives this process its own SVID: unix:/PATH; without it SPIFFE_ENDPOINT_SOCKET
    #[arg(long, global = true, env = "DAYFLY_WORKLOAD_API", value_name = "ENDPOINT")]
    workload_api: Option<String>,
    /// Root on the broker's own host: read and revoke over this socket, without SPIRE. Each use raises an alarm
    #[arg(long, global = true, value_name = "SOCKET")]
    break_glass: Option<PathBuf>,
}

/// The configuration file. Break-glass is not in it: it must be asked for each time.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    broker: Option<String>,
    broker_id: Option<OneOrMore>,
    workload_api: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// A connection on which `AdminService` answers.
pub enum Admin {
    /// Over mTLS with the admin's own SVID.
    Broker(BrokerClient),
    /// As root on the broker's host.
    BreakGlass(BreakGlassClient),
}

impl ConnectArgs {
    /// Connects to the broker.
    pub async fn admin(self) -> Result<Admin, Failure> {
        if let Some(socket) = &self.break_glass {
            return Ok(Admin::BreakGlass(BreakGlassClient::connect(socket).await?));
        }
        let settings = self.settings(from_environment(), read(config_path().as_deref())?);
        let endpoint = settings.endpoint()?;
        let identity = settings.identity().await?;
        Ok(Admin::Broker(BrokerClient::connect(endpoint, &identity).await?))
    }

    /// Asks the Workload API who this process is.
    pub async fn identity(self) -> Result<Identity, Failure> {
        self.settings(from_environment(), read(config_path().as_deref())?).identity().await
    }

    fn settings(self, environment: Option<String>, file: ConfigFile) -> Settings {
        let from_file = || match file.broker_id {
            Some(OneOrMore::One(id)) => vec![id],
            Some(OneOrMore::More(ids)) => ids,
            None => Vec::new(),
        };
        Settings {
            broker: self.broker.or(file.broker),
            broker_ids: if self.broker_id.is_empty() { from_file() } else { self.broker_id },
            workload_api: self.workload_api.or(environment).or(file.workload_api),
        }
    }
}

/// What programs of this shell use; an admin's own may differ from it.
fn from_environment() -> Option<String> {
    std::env::var("SPIFFE_ENDPOINT_SOCKET").ok()
}

struct Settings {
    broker: Option<String>,
    broker_ids: Vec<String>,
    workload_api: Option<String>,
}

impl Settings {
    fn endpoint(&self) -> Result<BrokerEndpoint, Failure> {
        let address = self.broker.as_deref().ok_or_else(|| {
            Failure::usage("no broker is named").next(
                "give --broker ADDRESS and --broker-id SPIFFE_ID, set DAYFLY_BROKER and DAYFLY_BROKER_ID, \
                 or write broker and broker_id to ~/.config/dayfly/config.toml",
            )
        })?;
        if self.broker_ids.is_empty() {
            return Err(Failure::usage("no SPIFFE ID is given for the broker").next(
                "give --broker-id with the exact SPIFFE ID the broker runs under; there is no default, \
                 for a false broker could pose as the true one",
            ));
        }
        Ok(BrokerEndpoint::new(address, &self.broker_ids)?)
    }

    async fn identity(&self) -> Result<Identity, Failure> {
        Ok(Identity::from_workload_api(self.workload_api.as_deref(), IdentityOptions::default()).await?)
    }
}

impl Admin {
    /// A client for one call.
    pub fn client(&self) -> AdminServiceClient<Channel> {
        let client = match self {
            Admin::Broker(broker) => broker.admin(),
            Admin::BreakGlass(broker) => broker.admin(),
        };
        client.max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// A client for one call about approvals. Root on the broker's host decides none.
    pub fn approvals(&self) -> Result<ApprovalServiceClient<Channel>, Failure> {
        match self {
            Admin::Broker(broker) => Ok(broker.approvals()),
            Admin::BreakGlass(_) => Err(Failure::usage("the break-glass socket knows no approvals")
                .next("use an admin's own SVID; what was approved is taken back with dayfly revoke")),
        }
    }
}

impl Admin {
    /// A client for one call about signing keys.
    pub fn keys(&self) -> Result<KeyServiceClient<Channel>, Failure> {
        match self {
            Admin::Broker(broker) => Ok(broker.keys()),
            Admin::BreakGlass(_) => Err(Failure::usage("the break-glass socket knows no signing keys").next(
                "use an admin's own SVID; without SPIRE, stop the broker and remove the key where it is held",
            )),
        }
    }

    /// A client for one question.
    pub fn questions(&self) -> QuestionServiceClient<Channel> {
        let client = match self {
            Admin::Broker(broker) => broker.questions(),
            Admin::BreakGlass(broker) => broker.questions(),
        };
        client.max_encoding_message_size(MAX_REQUEST_BYTES)
    }

    /// A client for the kill switch and the revocation queue.
    pub fn revocations(&self) -> RevocationServiceClient<Channel> {
        match self {
            Admin::Broker(broker) => broker.revocations(),
            Admin::BreakGlass(broker) => broker.revocations(),
        }
    }
}

/// Awaits an answer and reads a refusal.
pub async fn answer<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Failure> {
    Ok(call.await?.into_inner())
}

/// `$XDG_CONFIG_HOME/dayfly/config.toml`, else beneath `$HOME/.config` (XDG Base Directory Specification).
fn config_path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(base.join("dayfly/config.toml"))
}

fn read(path: Option<&Path>) -> Result<ConfigFile, Failure> {
    let Some(path) = path else { return Ok(ConfigFile::default()) };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(ConfigFile::default());
        }
        Err(error) => {
            let failure = Failure::new(format!("cannot read the configuration file {}", path.display()));
            return Err(failure.because(&error));
        }
    };
    parse(&text).map_err(|error| {
        Failure::usage(format!("the configuration file {} is not valid", path.display()))
            .because(&error)
            .next("its keys are broker, broker_id and workload_api")
    })
}

fn parse(text: &str) -> Result<ConfigFile, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed step fails the test")]
mod tests {
    use super::*;

    fn args(broker: Option<&str>, ids: &[&str]) -> ConnectArgs {
        ConnectArgs {
            broker: broker.map(str::to_owned),
            broker_id: ids.iter().map(|id| (*id).to_owned()).collect(),
            workload_api: None,
            break_glass: None,
        }
    }

    #[test]
    fn what_is_said_on_the_command_line_stands_over_the_file() {
        let file = || parse("broker = 'a:1'\nbroker_id = 'spiffe://x/a'\nworkload_api = 'unix:/w'").unwrap();
        let settings = args(Some("b:2"), &["spiffe://x/b"]).settings(None, file());
        assert_eq!(
            (settings.broker.as_deref(), &settings.broker_ids[..]),
            (Some("b:2"), &["spiffe://x/b".into()][..])
        );
        let settings = args(None, &[]).settings(None, file());
        assert_eq!(
            (settings.broker.as_deref(), &settings.broker_ids[..]),
            (Some("a:1"), &["spiffe://x/a".into()][..])
        );
        assert_eq!(settings.workload_api.as_deref(), Some("unix:/w"));
        let settings = args(None, &[]).settings(Some("unix:/e".into()), file());
        assert_eq!(settings.workload_api.as_deref(), Some("unix:/e"), "the environment stands over the file");
    }

    #[test]
    fn a_file_with_an_unknown_key_is_refused() {
        assert!(parse("broker_ids = []").is_err());
        assert!(parse("break_glass = '/run/x'").is_err());
        assert!(parse("broker_id = ['spiffe://x/a', 'spiffe://x/b']").is_ok());
        let missing = read(Some(Path::new("/nonexistent/dayfly/config.toml"))).unwrap();
        assert!(missing.broker.is_none());
    }

    #[test]
    fn a_broker_without_a_pinned_identity_is_not_spoken_to() {
        let fault = args(Some("b:2"), &[]).settings(None, ConfigFile::default()).endpoint().unwrap_err();
        assert_eq!(fault.exit, crate::exit::Exit::Usage);
        assert!(fault.told.message.contains("no SPIFFE ID"), "{}", fault.told.message);
        let fault =
            args(None, &["spiffe://x/b"]).settings(None, ConfigFile::default()).endpoint().unwrap_err();
        assert!(fault.told.message.contains("no broker"), "{}", fault.told.message);
    }
}
