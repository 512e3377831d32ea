//! Whether a process has become another program since it was last looked at.
//!
//! A closed connection does not say so: a launcher may close it before `exec`, and what is then given to "the program" would
//! be given to the launcher. The kernel lays out arguments and environment anew at each `exec`; where it put them tells.

use std::fs;

use crate::process::{Process, ProcessError};

/// What a process is running, as far as it tells one `exec` from the next.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Image {
    exe: (u64, u64),
    /// Start of the stack, start and end of arguments and of environment; zeros where the agent may not look.
    layout: Vec<u64>,
}

impl Image {
    /// Reads it; all of one process, as it lives before and after.
    pub fn of(process: &Process) -> Result<Self, ProcessError> {
        let key = process.facts()?.key;
        let pid = key.pid;
        let what = "stat";
        let stat = fs::read(format!("/proc/{pid}/stat")).map_err(|source| ProcessError::Unreadable {
            pid,
            what,
            source,
        })?;
        process.must_be_alive()?;
        Ok(Self { exe: (key.exe_dev, key.exe_ino), layout: layout(&stat) })
    }
}

/// proc_pid_stat(5): fields 28 and 48 to 51, counted after the last parenthesis, behind which stands field 3.
fn layout(stat: &[u8]) -> Vec<u64> {
    let after = stat.iter().rposition(|&b| b == b')').map_or(&[][..], |at| &stat[at + 1..]);
    let fields: Vec<&str> = str::from_utf8(after).unwrap_or_default().split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse().ok()).unwrap_or_default();
    [28, 48, 49, 50, 51].into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;
    use crate::testkit::{Shell, eventually};

    #[test]
    fn exec_of_the_same_program_is_another_image_and_time_is_not() {
        let mut shell = Shell::start();
        let process = shell.process();
        let before = Image::of(&process).unwrap();
        assert!(before.layout.iter().all(|&at| at > 0), "{before:?}");
        shell.run("x=1; cd /");
        assert_eq!(Image::of(&process).unwrap(), before);
        shell.run("exec bash --noprofile --norc");
        let after = eventually(|| Image::of(&process).ok().filter(|image| *image != before));
        assert_eq!(after.exe, before.exe);
    }

    #[test]
    fn a_malformed_line_has_no_layout() {
        assert_eq!(layout(b"1 (x"), [0; 5]);
    }
}
