#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use dayfly_sys::pidfd;
use rustix::fs::OFlags;

use super::files::directories_in;
use super::hierarchy::path_in;
use super::*;
use crate::testkit::{Shell, TestTree, eventually};

#[test]
fn the_v2_mount_is_found_beside_the_old_ones() {
    let hybrid = "\
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
50 31 0:38 /docker/ab /mnt/part rw,relatime - cgroup2 cgroup2 rw
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate
";
    let found = Hierarchy::in_table(hybrid).unwrap();
    assert_eq!(found.mount_point, Path::new("/sys/fs/cgroup/uni fied"));
    assert_eq!(found.root, Path::new("/"));
    let only_old = hybrid.lines().next().unwrap();
    assert!(Hierarchy::in_table(only_old).is_none());
}

#[test]
fn a_path_outside_the_mount_has_no_folder() {
    let part = Hierarchy { mount_point: "/m".into(), root: "/docker/ab".into() };
    assert_eq!(part.directory_of(Path::new("/docker/ab/x")), Some("/m/x".into()));
    assert_eq!(part.path_from(Path::new("/m/x")), Some("/docker/ab/x".into()));
    assert_eq!(part.directory_of(Path::new("/docker/abc")), None);
    assert_eq!(part.directory_of(Path::new("/docker/ab/../cd")), None);
    assert_eq!(path_in(b"1:cpu:/a\n0::/b c\n"), Some("/b c".into()));
    assert_eq!(path_in(b"1:cpu:/a\n"), None);
}

#[test]
fn names_that_could_be_paths_are_refused() {
    for name in ["", ".", "..", "a/b", "a.b", "cgroup.procs", "a\n", &"x".repeat(129)] {
        assert!(matches!(folder_name(name), Err(CgroupError::BadName(_))), "{name:?}");
    }
}

#[test]
fn neither_the_agent_nor_a_borrowed_folder_becomes_a_task() {
    let tree = TestTree::new();
    let agent = Process::open(i32::try_from(std::process::id()).unwrap()).unwrap();
    assert!(matches!(tree.open_task("t", None, &agent), Err(CgroupError::Unmovable(_))));
    fs::set_permissions(tree.directory(), fs::Permissions::from_mode(0o777)).unwrap();
    let refused = CgroupTree::at(tree.hierarchy().clone(), tree.directory());
    assert!(matches!(refused, Err(CgroupError::NotOurs { .. })));
    let outside = CgroupTree::at(tree.hierarchy().clone(), Path::new("/tmp/x"));
    assert!(matches!(outside, Err(CgroupError::NotOurs { .. })));
}

#[tokio::test]
async fn a_leader_and_all_it_forks_are_in_and_the_last_exit_empties_it() {
    let tree = TestTree::new();
    let mut shell = Shell::start();
    let cgroup = tree.open_task("t", None, &shell.process()).unwrap();
    let meta = fs::metadata(cgroup.directory()).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (rustix::process::geteuid().as_raw(), 0o755));
    let daemon = shell.daemon();
    assert!(cgroup.holds(&shell.process()).unwrap() && cgroup.holds(&daemon).unwrap());
    assert!(cgroup.is_populated().unwrap());

    shell.kill();
    let early = tokio::time::timeout(Duration::from_millis(100), cgroup.emptied()).await;
    assert!(early.is_err(), "the daemon is alive");
    // With no timer to help: it is the kernel that says so.
    let (emptied, killed) = tokio::join!(
        tokio::time::timeout(RECHECK * 10, cgroup.emptied_looking_every(RECHECK * 100)),
        async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            pidfd::kill(&daemon)
        }
    );
    killed.unwrap();
    assert_eq!(emptied.unwrap(), Emptied::Empty);
    drop(shell);
    cgroup.remove().unwrap();
    assert!(matches!(cgroup.is_populated(), Err(CgroupError::Gone)));
    cgroup.remove().unwrap();
}

#[tokio::test]
async fn a_removed_cgroup_is_an_end_also_for_whoever_already_waits() {
    let tree = TestTree::new();
    let shell = Shell::start();
    let cgroup = tree.open_task("t", None, &shell.process()).unwrap();
    let mut events = cgroup.open("cgroup.events", OFlags::RDONLY).unwrap();
    assert!(cgroup.populated_in(&mut events).unwrap());
    drop(shell);
    eventually(|| fs::remove_dir(cgroup.directory()).ok());
    // The file was opened before: this is the ENODEV that a waiting watcher reads.
    assert!(matches!(cgroup.populated_in(&mut events), Err(CgroupError::Gone)));
    assert_eq!(tokio::time::timeout(RECHECK * 5, cgroup.emptied()).await.unwrap(), Emptied::Gone);
}

#[tokio::test]
async fn both_ways_to_kill_reach_every_process_and_child_task() {
    for one_by_one in [false, true] {
        let tree = TestTree::new();
        let (mut outer, inner) = (Shell::start(), Shell::start());
        let parent = tree.open_task("parent", None, &outer.process()).unwrap();
        let child = tree.open_task("child", Some(&parent), &inner.process()).unwrap();
        assert!(child.path().starts_with(parent.path()));
        let everyone = [outer.process(), outer.daemon(), outer.grandchild(), inner.process()];
        if one_by_one {
            parent.kill_one_by_one().unwrap();
        } else {
            parent.kill().await.unwrap();
        }
        for process in everyone {
            eventually(|| (!process.is_alive()).then_some(()));
        }
        parent.kill().await.unwrap();
        drop((outer, inner));
        eventually(|| parent.remove().ok());
        assert!(!child.directory().exists());
    }
}

#[tokio::test]
async fn a_released_leader_goes_back_where_it_came_from() {
    let tree = TestTree::new();
    let mut shell = Shell::start();
    let leader = shell.process();
    let home = tree.hierarchy().path_of(&leader).unwrap();
    let outer = tree.open_task("outer", None, &leader).unwrap();
    let inner = tree.open_task("inner", Some(&outer), &leader).unwrap();
    let left_behind = shell.daemon();
    assert_eq!(tree.hierarchy().path_of(&leader).unwrap(), inner.path());

    inner.release(&leader).unwrap();
    assert_eq!(tree.hierarchy().path_of(&leader).unwrap(), outer.path());
    outer.release(&leader).unwrap();
    assert_eq!(tree.hierarchy().path_of(&leader).unwrap(), home);
    outer.release(&leader).unwrap();
    outer.kill().await.unwrap();
    assert!(!left_behind.is_alive());
    assert_eq!(shell.run("echo alive"), "alive");
}

#[test]
fn after_a_restart_only_the_very_same_cgroup_is_taken() {
    let tree = TestTree::new();
    let shell = Shell::start();
    let cgroup = tree.open_task("t", None, &shell.process()).unwrap();
    let (dir, id) = (cgroup.directory().to_owned(), cgroup.id());
    drop(cgroup);
    let again = tree.reopen(&dir, id, 7).unwrap();
    assert!(again.holds(&shell.process()).unwrap());
    assert!(matches!(tree.reopen(&dir, id + 1, 7), Err(CgroupError::Gone)));
    let outside = tree.reopen(&tree.directory().join("../.."), id, 7);
    assert!(matches!(outside, Err(CgroupError::NotOurs { .. })));
    again.release(&shell.process()).unwrap();
    assert_eq!(
        tree.hierarchy().path_of(&shell.process()).unwrap(),
        tree.hierarchy().path_from(tree.directory()).unwrap()
    );
}

#[test]
fn a_process_that_died_leaves_no_cgroup_behind() {
    let tree = TestTree::new();
    let shell = Shell::start();
    let process = shell.process();
    drop(shell);
    assert!(matches!(tree.open_task("t", None, &process), Err(CgroupError::Process(ProcessError::Gone))));
    assert_eq!(directories_in(tree.directory()).unwrap(), Vec::<PathBuf>::new());
}
