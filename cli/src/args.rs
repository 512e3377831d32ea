//! The command line as a whole.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};
use clap_complete::Shell;

use crate::apply::ApplyArgs;
use crate::approvals::{self, ApproveArgs, IdArgs, RequestArgs};
use crate::audit::AuditCommand;
use crate::brake::BrakeCommand;
use crate::check::CheckArgs;
use crate::connect::ConnectArgs;
use crate::delegate::DelegateArgs;
use crate::doctor::DoctorCommand;
use crate::documents::DocumentCommand;
use crate::explain::ExplainArgs;
use crate::keys::KeyCommand;
use crate::kill::KillArgs;
use crate::leases::LeaseCommand;
use crate::lint::LintArgs;
use crate::nodes::NodeCommand;
use crate::output::Format;
use crate::policy::PolicyCommand;
use crate::reach::ReachArgs;
use crate::review::ReviewArgs;
use crate::revocations::RevocationsArgs;
use crate::revoke::RevokeArgs;
use crate::run::RunArgs;
use crate::simulate::SimulateArgs;
use crate::tasks::TaskCommand;
use crate::who_can::WhoCanArgs;

const ABOUT: &str = "\
Credentials for one task: opened by proof of identity, cut to what the task declared, taken back when it ends.

`dayfly run` starts a program in a task of its own, through the node agent. The admins' verbs go straight to the \
credential broker, with the admin's own X.509-SVID, and need --broker and --broker-id.";

const CONFIG: &str = "\
Configuration: $XDG_CONFIG_HOME/dayfly/config.toml (or ~/.config/dayfly/config.toml) may hold
  broker = \"broker.internal:7443\"
  broker_id = \"spiffe://prod.example/dayfly/broker\"
  workload_api = \"unix:/run/spire/agent.sock\"
Flags stand over the environment, the environment over the file.

`dayfly help exit-codes` lists the exit codes.";

/// Credentials for one task
#[derive(Parser, Debug)]
#[command(name = "dayfly", version, long_about = ABOUT, after_long_help = CONFIG, max_term_width = 110)]
#[command(propagate_version = false, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// How to print; errors follow
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    pub output: Format,
    /// Say more on stderr; twice for more still
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// How to reach the broker
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// The verbs.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a program in a task of its own
    Run(RunArgs),
    /// Ask whether something may be done with an artifact, from inside a task
    Check(CheckArgs),
    /// Open a task for another workload, from inside a task
    Delegate(DelegateArgs),
    /// What is asked of the broker, or of the Workload API
    #[command(flatten)]
    Admin(AdminCommand),
    /// Look at how a target is set up
    #[command(subcommand)]
    Doctor(DoctorCommand),
    /// Run Dayfly for development on this machine
    #[cfg(feature = "dev")]
    Dev(crate::dev::DevArgs),
    /// Print the version
    Version,
    /// Print completions for a shell
    #[command(after_long_help = "Example:\n  dayfly completions bash > /etc/bash_completion.d/dayfly")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write manual pages into a folder
    #[command(hide = true)]
    Man {
        /// The folder; it must exist
        dir: PathBuf,
    },
    /// List the exit codes
    #[command(hide = true, long_about = crate::exit::table())]
    ExitCodes,
}

/// The admins' verbs.
#[derive(Subcommand, Debug)]
pub enum AdminCommand {
    /// Apply documents: stages, scopes, bindings, policies, nodes
    Apply(ApplyArgs),
    /// See scopes: permissions on targets
    #[command(subcommand)]
    Scope(DocumentCommand),
    /// See bindings: who may use or delegate a scope
    #[command(subcommand)]
    Binding(DocumentCommand),
    /// See and test policies: Rego that may deny or narrow
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// See stages: which identities do what kind of work
    #[command(subcommand)]
    Stage(DocumentCommand),
    /// See node agents and the documents that admit them
    #[command(subcommand)]
    Node(NodeCommand),
    /// See and release the brake on mass lapse
    #[command(subcommand)]
    Brake(BrakeCommand),
    /// See tasks
    #[command(subcommand)]
    Task(TaskCommand),
    /// See issued credentials
    #[command(subcommand)]
    Lease(LeaseCommand),
    /// Take credentials back
    Revoke(RevokeArgs),
    /// Cut off an identity, a scope, a node … until that is lifted
    Kill(KillArgs),
    /// See what waits to be taken back, since when and why
    Revocations(RevocationsArgs),
    /// Name what is legal in documents and still a mistake
    Lint(LintArgs),
    /// Ask for temporary access to a scope that wants approval
    Request(RequestArgs),
    /// Say yes to a request for approval
    Approve(ApproveArgs),
    /// Say no to a request for approval
    Refuse(IdArgs),
    /// Take back a request for approval, or an approval with every lease that rests on it
    Withdraw(IdArgs),
    /// See requests for approval, newest first
    Approvals(approvals::ListArgs),
    /// Read and verify the audit records
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Bring signing keys through their life
    #[command(subcommand)]
    Key(KeyCommand),
    /// Say why a request was, or would be, allowed or denied
    Explain(ExplainArgs),
    /// Say what an identity, a task or a session can get and holds
    Reach(ReachArgs),
    /// Say who may have a scope, or touch a target
    WhoCan(WhoCanArgs),
    /// Say what was used of bindings, and propose narrower ones
    Review(ReviewArgs),
    /// Say which recorded requests documents would newly deny or allow
    Simulate(SimulateArgs),
    /// Say which identity the Workload API gives this process
    Whoami,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn admin_flags_may_stand_before_or_behind_the_verb() {
        for line in [
            "dayfly --broker b:1 --broker-id spiffe://x/a -o json scope list",
            "dayfly scope list --broker b:1 --broker-id spiffe://x/a -o json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).expect("both orders are taken");
            assert_eq!(cli.output, Format::Json);
        }
    }

    #[test]
    fn a_revocation_names_exactly_one_thing() {
        assert!(Cli::try_parse_from(["dayfly", "revoke", "--task", "a"]).is_ok());
        assert!(Cli::try_parse_from(["dayfly", "revoke"]).is_err());
        assert!(Cli::try_parse_from(["dayfly", "revoke", "--task", "a", "--lease", "b"]).is_err());
    }

    #[test]
    fn pruning_needs_a_selector() {
        assert!(Cli::try_parse_from(["dayfly", "apply", "-f", "x", "--prune"]).is_err());
        assert!(
            Cli::try_parse_from(["dayfly", "apply", "-f", "x", "--prune", "--selector", "a=b,c=d"]).is_ok()
        );
    }
}
