//! Real processes for the tests of this crate: shells that do what they are told.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cgroup::{CgroupTree, Hierarchy};
use crate::process::Process;

/// A bash that reads commands; killed when dropped.
pub(crate) struct Shell {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Shell {
    pub(crate) fn start() -> Self {
        let mut child = Command::new("bash")
            .args(["--noprofile", "--norc"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("these tests need bash");
        let stdin = child.stdin.take().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut shell = Self { child, stdin, stdout };
        // Once it answers, the exec that made it a bash is over.
        shell.run(":");
        shell
    }

    pub(crate) fn process(&self) -> Process {
        Process::open(i32::try_from(self.child.id()).unwrap()).expect("the shell lives")
    }

    pub(crate) fn process_is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Runs one line and gives back its last line of output, if any.
    pub(crate) fn run(&mut self, line: &str) -> String {
        self.send(&format!("{line}\necho --done"));
        let mut last = String::new();
        loop {
            let mut read = String::new();
            assert!(self.stdout.read_line(&mut read).unwrap() > 0, "the shell died of `{line}`");
            if read == "--done\n" {
                return last.trim_end().to_owned();
            }
            last = read;
        }
    }

    /// Sends a line without waiting for it to be done.
    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    /// A process that descends from this one through another that lives.
    pub(crate) fn grandchild(&mut self) -> Process {
        self.started("bash -c 'sleep 60 & echo $!; wait' & sleep 0.2")
    }

    /// A process whose parent has exited and whose session is its own.
    pub(crate) fn daemon(&mut self) -> Process {
        let process = self.started("(setsid sleep 60 >/dev/null & echo $!)");
        let me = self.process().id();
        eventually(|| (!process.lineage().unwrap().contains(&me)).then_some(()));
        process
    }

    /// Runs a line that prints a pid, and opens it once it is a `sleep`.
    pub(crate) fn started(&mut self, line: &str) -> Process {
        let process = Process::open(self.run(line).parse().unwrap()).unwrap();
        eventually(|| process.facts().unwrap().exe.ends_with("sleep").then_some(()));
        process
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "it did not happen within 5 s");
        sleep(Duration::from_millis(5));
    }
}

/// A cgroup tree of this test alone, removed with everything in it at the end.
pub(crate) struct TestTree(pub(crate) CgroupTree);

impl TestTree {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dayfly-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let hierarchy = Hierarchy::find().expect("this test needs a mounted cgroup v2 hierarchy");
        let base = hierarchy.own_directory().unwrap().join(name);
        Self(CgroupTree::at(hierarchy, &base).expect("this test needs root, to own a cgroup"))
    }
}

impl std::ops::Deref for TestTree {
    type Target = CgroupTree;

    fn deref(&self) -> &CgroupTree {
        &self.0
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        let base = self.0.directory();
        let _ = std::fs::write(base.join("cgroup.kill"), "1");
        eventually(|| remove_below(base).ok());
    }
}

fn remove_below(dir: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_below(&entry.path())?;
        }
    }
    std::fs::remove_dir(dir)
}
