//! What a person next to it sees and says: the welcome, `env`, `stop`.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal};

use super::config::VAULT_LOGIN;
use super::identities::SERVICE;
use super::place::{self, Place, Told};
use super::targets::Targets;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{self, BOLD, FAINT, ODD, paint};

/// How long to wait for the end of what was stopped.
const END_WITHIN: Duration = Duration::from_secs(60);

/// Prints exports for the shell.
pub fn print_env(dir: &Path) -> Result<Exit, Failure> {
    output::text(&exports(&place::running(dir)?))?;
    Ok(Exit::Done)
}

/// Ends what runs in `dir` and waits until it has ended.
pub async fn stop(dir: &Path) -> Result<Exit, Failure> {
    let told = place::running(dir)?;
    let refuse = |error: rustix::io::Errno| {
        Failure::new(format!("could not stop process {}", told.pid)).because(&error)
    };
    let pid = Pid::from_raw(told.pid).ok_or_else(|| Failure::new("its process is not known"))?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(refuse)?;
    // Still locked with the process in hand: the number is not somebody else's.
    if place::is_free(dir) {
        return Ok(Exit::Done);
    }
    rustix::process::pidfd_send_signal(&pidfd, Signal::TERM).map_err(refuse)?;
    let ended = async {
        while !place::is_free(dir) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(END_WITHIN, ended).await {
        Ok(()) => Ok(Exit::Done),
        Err(_) => Err(Failure::new(format!("process {} was told to end and has not ended", told.pid))),
    }
}

fn exports(told: &Told) -> String {
    let agent = told.agent_socket.to_string_lossy();
    let variables = [
        ("DAYFLY_AGENT_SOCKET", &*agent),
        ("DAYFLY_BROKER", &told.broker),
        ("DAYFLY_BROKER_ID", &told.broker_id),
        ("DAYFLY_WORKLOAD_API", &told.admin_api),
        ("SPIFFE_ENDPOINT_SOCKET", &told.workload_api),
        ("DAYFLY_DEV_SERVICE_API", &told.service_api),
        ("DAYFLY_DEV_ISSUER", &told.issuer),
        ("DAYFLY_DEV_INTROSPECTION", &told.introspection),
        ("DAYFLY_DEV_TOKEN_ENDPOINT", &told.exchange),
    ];
    variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))).collect()
}

/// POSIX shell: nothing is special between single quotes but a single quote.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What is said when everything is ready.
pub fn welcome(place: &Place, targets: &Targets, applied: Option<usize>) -> String {
    let mut text = format!(
        "{} trust domain dev.dayfly, state in {}\n\n",
        paint(BOLD, "Dayfly runs for development:"),
        place.dir().display()
    );
    text += &output::facts([
        ("your programs are", place.me.program()),
        ("your services are", SERVICE.to_owned()),
        ("you as admin are", place.me.admin()),
        ("tokens come from", place.issuer()),
        ("services ask at", place.introspection_url()),
        ("tokens are exchanged at", place.exchange_url()),
        ("Vault", targets.vault.as_ref().map(|vault| vault.address.clone()).unwrap_or_default()),
        ("AWS", targets.aws.as_ref().map(|aws| aws.endpoint.clone()).unwrap_or_default()),
    ]);
    if let Some(count) = applied {
        text += &format!("\nThe database was empty: {count} starter documents were applied.\n");
    }
    if !place.me.is_root() {
        let told = "Without root a task hangs on its process, not on a cgroup: a program that detaches itself from its \
                    parents leaves its task, and loses its credentials with it.";
        text += &format!("\n{}\n", paint(ODD, told));
    }
    if targets.vault.is_some() {
        let bundle = place.kept("spiffe/bundle.json");
        text += &format!(
            "\n{}\n",
            paint(
                FAINT,
                &format!(
                    "Vault has to trust the keys in {} at auth/{VAULT_LOGIN}; deploy/vault tells how.",
                    bundle.display()
                )
            )
        );
    }
    let dir = if place.dir().ends_with(".dayfly")
        && place.dir().parent() == std::env::current_dir().ok().as_deref()
    {
        String::new()
    } else {
        format!(" --dir {}", quoted(&place.dir().to_string_lossy()))
    };
    text += &format!(
        "\nIn another shell:\n  eval \"$(dayfly dev env{dir})\"\n  dayfly run --scope call-service -- sh -c 'sleep 1; cat $DAYFLY_TOKEN_FILE'\n  \
         dayfly lease list\n\nCtrl-C ends it. Logs are in {}; -v shows them.\n",
        place.kept("logs").display()
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_survive_any_path() {
        let told = Told {
            pid: 1,
            agent_socket: "/tmp/it's $HOME/agent.sock".into(),
            broker: "unix:/b".into(),
            broker_id: "spiffe://dev.dayfly/dayfly/broker".into(),
            admin_api: "unix:/a".into(),
            workload_api: "unix:/w".into(),
            service_api: "unix:/s".into(),
            issuer: "http://127.0.0.1:1".into(),
            introspection: "https://127.0.0.1:2/introspect".into(),
            exchange: "https://localhost:3/token".into(),
        };
        let script = format!("{}printf %s \"$DAYFLY_AGENT_SOCKET\"", exports(&told));
        let said = std::process::Command::new("sh").arg("-c").arg(script).output().expect("there is a shell");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "/tmp/it's $HOME/agent.sock");
    }
}
