//! What `/proc` says of numbers: processes, and the clock on which they start.

use std::fs;
use std::io;

/// A pid with the start time that tells it from others that had or will have the same number in this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// Process id in the agent's pid namespace.
    pub pid: i32,
    /// Start time in clock ticks (1/100 s) since boot.
    pub start_time: u64,
}

/// What `/proc/PID/stat` says; of whoever has the number at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub id: ProcessId,
    pub ppid: i32,
    pub pgrp: i32,
    pub session: i32,
    pub is_dead: bool,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> io::Result<Self> {
        Self::parse(&fs::read(format!("/proc/{pid}/stat"))?)
    }

    /// Every process that can be seen, zombies too.
    pub(crate) fn of_all() -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            match Self::of(pid) {
                Ok(stat) => all.push(stat),
                Err(e) if is_gone(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// proc_pid_stat(5). The second field is the command in parentheses, which may itself hold spaces, parentheses and
    /// bytes that are no text: fields are counted after the **last** closing one.
    pub(super) fn parse(stat: &[u8]) -> io::Result<Self> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/stat");
        let open = stat.iter().position(|&b| b == b'(').ok_or_else(malformed)?;
        let close =
            stat.iter().rposition(|&b| b == b')').filter(|&close| close > open).ok_or_else(malformed)?;
        let pid =
            str::from_utf8(&stat[..open]).ok().and_then(|s| s.trim().parse().ok()).ok_or_else(malformed)?;
        let rest = str::from_utf8(&stat[close + 1..]).map_err(|_| malformed())?;
        // The first of these is field 3, so field N stands at N - 3.
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3).and_then(|s| s.parse().ok()).ok_or_else(malformed);
        let start_time = fields.get(22 - 3).and_then(|s| s.parse().ok()).ok_or_else(malformed)?;
        Ok(Self {
            id: ProcessId { pid, start_time },
            ppid: number(4)?,
            pgrp: number(5)?,
            session: number(6)?,
            is_dead: matches!(fields.first(), Some(&("Z" | "X" | "x"))),
        })
    }
}

/// The time now on the clock of [`ProcessId::start_time`].
pub(crate) fn ticks_since_boot() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    parse_uptime(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/uptime"))
}

/// Seconds with two digits; a tick is 1/100 s too (`USER_HZ`, fixed by the kernel's interface).
pub(super) fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, hundredths) = text.split_ascii_whitespace().next()?.split_once('.')?;
    if hundredths.len() != 2 {
        return None;
    }
    seconds.parse::<u64>().ok()?.checked_mul(100)?.checked_add(hundredths.parse().ok()?)
}

/// Names this boot; pids, start times and pidfd inodes mean nothing in another.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

pub(crate) fn is_gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(nix::libc::ESRCH)
}
