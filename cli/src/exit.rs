//! What an exit code says. Scripts hang on these numbers.

use std::process::ExitCode;

/// How a command came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done,
    /// Refused, failed, or not answered.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// Something runs out by itself: the target did not take it back.
    RunsOut,
    /// Something is still being taken back.
    StillRevoking,
    /// An audit chain does not hold.
    ChainBroken,
    /// Requests that are allowed would be denied.
    NewlyDenied,
    /// A second admin must say yes first; nothing was done.
    Waits,
    /// `run`: the program cannot be executed.
    NotExecutable,
    /// `run`: there is no such program.
    NotFound,
}

impl Exit {
    /// Every outcome, in the order of the numbers.
    pub const ALL: [Exit; 10] = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::RunsOut,
        Exit::StillRevoking,
        Exit::ChainBroken,
        Exit::NewlyDenied,
        Exit::Waits,
        Exit::NotExecutable,
        Exit::NotFound,
    ];

    /// The number the shell sees.
    pub const fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::RunsOut => 3,
            Exit::StillRevoking => 4,
            Exit::ChainBroken => 5,
            Exit::NewlyDenied => 6,
            Exit::Waits => 7,
            Exit::NotExecutable => 126,
            Exit::NotFound => 127,
        }
    }

    /// What it says, in one line.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Done => "done; after a revocation: every lease is verified or was never issued",
            Exit::Failed => {
                "refused, failed or not answered; `apply`: faults were found and nothing was applied"
            }
            Exit::Usage => "the command line makes no sense; nothing was asked of anybody",
            Exit::RunsOut => "revoke: some leases run out by themselves; their target cannot take them back",
            Exit::StillRevoking => {
                "revoke: some leases are still being taken back; the broker goes on trying"
            }
            Exit::ChainBroken => "audit verify: a chain does not hold, or does not extend an earlier head",
            Exit::NewlyDenied => "simulate: recorded requests that are allowed would be denied",
            Exit::Waits => "kill: it is wide and waits for a second admin; nothing was cut off",
            Exit::NotExecutable => "run: the program cannot be executed; the task was ended",
            Exit::NotFound => "run: the program was not found; the task was ended",
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The table of `dayfly help exit-codes`.
pub fn table() -> String {
    let lines = Exit::ALL.map(|exit| format!("{:>3}  {}\n", exit.code(), exit.meaning()));
    format!(
        "{}\nFrom `dayfly run` every other code, and these too, may be the program's own: once it runs, dayfly is gone.\n",
        lines.concat()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_people_lists_every_code_in_the_same_words() {
        let page = include_str!("../../docs/cli.md");
        for exit in Exit::ALL {
            let line = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(page.contains(&line), "docs/cli.md lacks: {line}");
        }
    }
}
