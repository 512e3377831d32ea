#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;

const BOOT: &str = "boot-1";
const PORTS: Ports = Ports { aws: 4001, vault: 4002 };

fn entry(id: &str) -> Entry {
    let leader = Leader { pid: 4711, start_time: 99, pidfd_ino: 1234 };
    Entry {
        id: id.to_owned(),
        session_id: id.to_owned(),
        parent: None,
        opened_at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_225_600_750),
        deadline: None,
        anchor: Anchored::CgroupOwned {
            directory: "/sys/fs/cgroup/x/task-1".into(),
            cgroup_id: 77,
            since: 98,
            leader,
            ends_with_leader: true,
        },
        attested_by: "pidfd".to_owned(),
        leave_orphans: false,
        owner: (1000, 1000),
        deliveries: BTreeMap::new(),
        launcher: None,
    }
}

fn begun(folder: &Path) -> Journal {
    let (journal, earlier) = Journal::read(folder, BOOT).unwrap();
    journal.begin(earlier.tasks, PORTS).unwrap();
    journal
}

fn ids(folder: &Path) -> Vec<String> {
    Journal::read(folder, BOOT).unwrap().1.tasks.into_iter().map(|task| task.id).collect()
}

#[test]
fn what_was_opened_and_is_not_over_is_found_again() {
    let home = tempfile::tempdir().unwrap();
    let journal = begun(home.path());
    for id in ["A", "B", "C"] {
        journal.opened(entry(id)).unwrap();
    }
    journal.over("B");
    journal.over("never");
    let (_, earlier) = Journal::read(home.path(), BOOT).unwrap();
    assert_eq!(earlier.tasks, [entry("A"), entry("C")]);
    assert_eq!(earlier.ports, Some(PORTS));
    let meta = fs::metadata(home.path().join("journal")).unwrap();
    assert_eq!(meta.mode() & 0o777, 0o600);
    // The next life goes on where this one stood.
    begun(home.path()).opened(entry("D")).unwrap();
    assert_eq!(ids(home.path()), ["A", "C", "D"]);
}

#[test]
fn at_whatever_byte_a_crash_tears_it_what_was_synced_before_is_found() {
    let home = tempfile::tempdir().unwrap();
    let journal = begun(home.path());
    let path = home.path().join("journal");
    let mut ends = vec![fs::metadata(&path).unwrap().len()];
    for id in ["A", "B", "C"] {
        journal.opened(entry(id)).unwrap();
        ends.push(fs::metadata(&path).unwrap().len());
    }
    drop(journal);
    let whole = fs::read(&path).unwrap();
    for length in 0..=whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let synced = ends[1..].iter().filter(|&&end| end <= length as u64).count();
        assert_eq!(ids(home.path()), ["A", "B", "C"][..synced], "cut at {length}");
    }
}

#[test]
fn a_line_that_was_changed_and_what_follows_it_is_not_believed() {
    let home = tempfile::tempdir().unwrap();
    let journal = begun(home.path());
    for id in ["A", "B"] {
        journal.opened(entry(id)).unwrap();
    }
    let path = home.path().join("journal");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("4711", "4712", 1)).unwrap();
    assert!(ids(home.path()).is_empty());
}

#[test]
fn tasks_of_another_boot_are_named_and_not_found() {
    let home = tempfile::tempdir().unwrap();
    begun(home.path()).opened(entry("A")).unwrap();
    let (_, earlier) = Journal::read(home.path(), "boot-2").unwrap();
    assert!(earlier.tasks.is_empty() && earlier.ports.is_none());
    assert_eq!(earlier.of_other_boots, ["A"]);
}

#[test]
fn a_file_that_others_may_write_or_that_is_a_link_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("journal");
    begun(home.path());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
    assert!(matches!(Journal::read(home.path(), BOOT), Err(JournalError::NotOurs { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&path, home.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(home.path().join("elsewhere"), &path).unwrap();
    assert!(Journal::read(home.path(), BOOT).is_err());
}

#[test]
fn it_does_not_grow_with_tasks_that_are_over() {
    let home = tempfile::tempdir().unwrap();
    let journal = begun(home.path());
    journal.opened(entry("stays")).unwrap();
    for number in 0..3 * SLACK {
        let id = format!("T{number}");
        journal.opened(entry(&id)).unwrap();
        journal.over(&id);
    }
    let text = fs::read_to_string(home.path().join("journal")).unwrap();
    assert!(text.lines().count() <= SLACK + 4, "{} lines", text.lines().count());
    assert_eq!(ids(home.path()), ["stays"]);
}

#[test]
fn hashes_are_read_as_they_are_written() {
    let hash: [u8; 32] = Sha256::digest(b"bearer").into();
    assert_eq!(unhex(&hex(&hash)), Some(hash));
    assert_eq!(unhex(&hex(&hash)[1..]), None);
    assert_eq!(unhex(&"g".repeat(64)), None);
}
