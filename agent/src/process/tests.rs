#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};

use super::stat::parse_uptime;
use super::*;
use crate::testkit::Shell;

#[test]
fn the_start_time_is_found_whatever_the_command_is_called() {
    for comm in ["cat", "a b", ")", "x) R 1 1 1 (", ") S 7 7 7", "((", "", "\u{fffd})"] {
        let line = format!(
            "4242 ({comm}) S 17 4240 4241 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654321 10 11 12 13\n"
        );
        let stat = Stat::parse(line.as_bytes()).unwrap();
        let id = ProcessId { pid: 4242, start_time: 987_654_321 };
        assert_eq!(stat, Stat { id, ppid: 17, pgrp: 4240, session: 4241, is_dead: false }, "{comm:?}");
    }
    let not_text = b"9 (\xff\xfe) ) Z 1 2 3 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 55 0\n";
    let stat = Stat::parse(not_text).unwrap();
    assert!(stat.is_dead && stat.id.start_time == 55);
    for broken in
        ["", "1", "1 (x", "1 x)", ")1 (", "1 (x) S 1 2 3", "1 (x) S a b c 0 -1 0 1 2 3 4 5 6 7 8 20 0 1 0 5"]
    {
        assert!(Stat::parse(broken.as_bytes()).is_err(), "{broken:?}");
    }
}

#[test]
fn a_real_process_with_a_hostile_name_is_read_right() {
    let mut shell = Shell::start();
    let process = shell.process();
    shell.run("printf 'x) R 1 1 (' > /proc/$$/comm");
    let stat = Stat::of(process.id().pid).unwrap();
    assert_eq!(stat.id, process.id());
    assert_eq!(stat.ppid, i32::try_from(std::process::id()).unwrap());
}

#[test]
fn the_clock_of_start_times_is_the_clock_of_now() {
    let before = ticks_since_boot().unwrap();
    let shell = Shell::start();
    let started = shell.process().id().start_time;
    assert!((before..=ticks_since_boot().unwrap()).contains(&started));
    assert_eq!(parse_uptime("12.34 5.00\n"), Some(1234));
    assert_eq!(parse_uptime("12.3 5.00\n"), None);
}

#[test]
fn a_peer_is_known_by_pidfd_and_by_number_alike() {
    let (a, _b) = UnixStream::pair().unwrap();
    let (process, by) = Process::of_peer(&a).unwrap();
    assert_eq!(by, AttestedBy::PeerPidfd, "SO_PEERPIDFD needs Linux 6.5");
    assert_eq!(process, Process::of_peer_number(&a).unwrap());
    let facts = process.facts().unwrap();
    assert_eq!(facts.exe, std::env::current_exe().unwrap());
    assert_eq!(facts.key.uid, nix::unistd::geteuid().as_raw());
}

#[test]
fn a_connection_that_outlives_its_connector_speaks_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let mut shell = Shell::start();
    // Perl connects and waits; the child that it forks writes through the inherited socket once its parent is dead.
    shell.send(&format!(
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); connect(S, sockaddr_un(\"{}\")) or die; \
         $me = $$; if (!fork) {{ syswrite(S, \"born\"); select(undef, undef, undef, 0.01) while getppid == $me; syswrite(S, \"heir\"); exit }} \
         sleep 60' &",
        path.display()
    ));
    let (mut connection, _) = listener.accept().unwrap();
    let mut bytes = [0; 4];
    connection.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"born");
    let (connector, _) = Process::of_peer(&connection).unwrap();
    connector.must_be_alive().unwrap();
    pidfd::kill(&connector).unwrap();
    connection.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"heir");
    assert!(matches!(connector.must_be_alive(), Err(ProcessError::Gone)));
    assert!(matches!(connector.facts(), Err(ProcessError::Gone)));
    assert!(matches!(Process::of_peer(&connection), Err(ProcessError::Gone)));
}

#[test]
fn facts_without_the_ioctl_are_the_same_facts() {
    let shell = Shell::start();
    let process = shell.process();
    let facts = process.facts().unwrap();
    let pid = process.id().pid;
    let dir = rustix::fs::open(format!("/proc/{pid}"), OFlags::DIRECTORY, Mode::empty()).unwrap();
    let read = read_info(&dir, pid).unwrap();
    assert_eq!((read.uid, read.gid, read.ppid), (facts.key.uid, facts.key.gid, facts.ppid));
    assert_eq!(read.cgroup_id, facts.key.cgroup_id);
    assert_eq!(process.cgroup_id().unwrap(), facts.key.cgroup_id);
}

#[test]
fn exec_changes_the_key_and_nothing_but_the_executable() {
    let mut shell = Shell::start();
    let process = shell.process();
    let before = process.facts().unwrap();
    assert_eq!(before, process.facts().unwrap(), "a quiet process keeps its key");
    shell.send("exec sleep 60");
    let after = crate::testkit::eventually(|| process.facts().ok().filter(|now| now.exe != before.exe));
    assert_ne!(before.key, after.key);
    let ProcessKey { exe_dev, exe_ino, .. } = before.key;
    assert_eq!(before.key, ProcessKey { exe_dev, exe_ino, ..after.key });
}

#[test]
fn the_dead_have_no_facts() {
    let shell = Shell::start();
    let process = shell.process();
    let remembered = (process.id(), process.pidfd_ino());
    assert_eq!(Process::reopen(remembered.0, remembered.1).unwrap(), process);
    drop(shell);
    assert!(!process.is_alive());
    assert!(matches!(process.facts(), Err(ProcessError::Gone)));
    assert!(matches!(process.lineage(), Err(ProcessError::Gone)));
    assert!(matches!(Process::reopen(remembered.0, remembered.1), Err(ProcessError::Gone)));
}

#[test]
fn a_number_with_another_start_time_is_another_process() {
    let shell = Shell::start();
    let id = shell.process().id();
    let stale = ProcessId { start_time: id.start_time - 1, ..id };
    assert!(matches!(Process::reopen(stale, shell.process().pidfd_ino()), Err(ProcessError::Gone)));
}

#[test]
fn lineage_goes_from_the_process_to_the_test_and_beyond() {
    let mut shell = Shell::start();
    let grandchild = shell.grandchild();
    let line = grandchild.lineage().unwrap();
    assert_eq!(line[0], grandchild.id());
    assert_eq!(line[2], shell.process().id());
    assert_eq!(line[3].pid, i32::try_from(std::process::id()).unwrap());
}
