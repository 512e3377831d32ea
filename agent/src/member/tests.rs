//! Real shells in real cgroups, with real connections.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::net::{TcpListener, TcpStream};

use super::*;
use crate::anchor::{EndsWith, ProcessAnchor};
use crate::testkit::{Shell, TestTree, eventually};

/// Tasks, and a listener that stands for one of the agent's endpoints.
struct World {
    roster: Roster,
    listener: TcpListener,
    /// Last, so that the shells of a test are killed before.
    tree: Option<TestTree>,
}

impl World {
    fn with_cgroups() -> Self {
        let tree = TestTree::new();
        Self { roster: Roster::new(Some(tree.hierarchy().clone())), listener: listen(), tree: Some(tree) }
    }

    fn with_processes_only() -> Self {
        Self { roster: Roster::new(Hierarchy::find().ok()), listener: listen(), tree: None }
    }

    fn cgroup_task(&mut self, name: &str, parent: Option<&str>, leader: &Process) {
        let tree = self.tree.as_ref().unwrap();
        let above = parent.and_then(|parent| self.roster.cgroup_above(parent));
        let cgroup = tree.open_task(name, above, leader).unwrap();
        let anchor =
            Anchor::OwnedCgroup { cgroup, leader: Some(leader.clone()), ends_with: EndsWith::Leader };
        self.roster.insert(name.to_owned(), parent.map(str::to_owned), Arc::new(anchor));
    }

    fn process_task(&mut self, name: &str, parent: Option<&str>, leader: &Process) {
        let anchor = ProcessAnchor::new(leader, leader.clone()).unwrap();
        self.roster.insert(name.to_owned(), parent.map(str::to_owned), Arc::new(Anchor::Process(anchor)));
    }

    /// Moves a process by hand, as only root can.
    fn move_to(&self, process: &Process, task: &str) {
        let dir = self.roster.cgroup_above(task).unwrap().directory();
        fs::write(dir.join("cgroup.procs"), process.id().pid.to_string()).unwrap();
    }

    fn move_out(&self, process: &Process) {
        let dir = self.tree.as_ref().unwrap().directory();
        fs::write(dir.join("cgroup.procs"), process.id().pid.to_string()).unwrap();
    }

    /// Lets a shell connect as its descriptor 7; gives back our end.
    fn connect(&self, shell: &mut Shell) -> Connection {
        let server = self.listener.local_addr().unwrap();
        shell.run(&format!("exec 7<>/dev/tcp/127.0.0.1/{}", server.port()));
        let (stream, client) = self.listener.accept().unwrap();
        Connection { _stream: stream, client, server }
    }

    fn speaker(&self, task: &str, on: &Connection) -> Result<Vec<Process>, Refusal> {
        self.roster.speaker(task, on.client, on.server).map(|speaker| speaker.holders)
    }

    fn standing(&self, process: &Process) -> Standing {
        self.roster.innermost(process).unwrap()
    }
}

struct Connection {
    _stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn inside(task: &str) -> Standing {
    Standing::In(task.to_owned())
}

#[test]
fn a_grandchild_and_a_daemon_stand_in_the_cgroup_task_and_an_outsider_does_not() {
    let mut world = World::with_cgroups();
    let (mut member, outsider) = (Shell::start(), Shell::start());
    world.cgroup_task("a", None, &member.process());
    assert_eq!(world.standing(&member.process()), inside("a"));
    assert_eq!(world.standing(&member.grandchild()), inside("a"));
    assert_eq!(world.standing(&member.daemon()), inside("a"));
    assert_eq!(world.standing(&outsider.process()), Standing::Outside);
    let refused = world.roster.must_stand_in("a", &outsider.process());
    assert!(matches!(refused, Err(Refusal::NotAMember)));
}

#[test]
fn a_grandchild_stands_in_the_process_task_and_an_outsider_and_a_daemon_do_not() {
    let mut world = World::with_processes_only();
    let (mut member, outsider) = (Shell::start(), Shell::start());
    world.process_task("a", None, &member.process());
    assert_eq!(world.standing(&member.process()), inside("a"));
    assert_eq!(world.standing(&member.grandchild()), inside("a"));
    assert_eq!(world.standing(&outsider.process()), Standing::Outside);
    // What a process anchor cannot hold, and why scopes may demand a cgroup.
    assert_eq!(world.standing(&member.daemon()), Standing::Outside);
}

#[test]
fn of_nested_tasks_the_innermost_counts() {
    let mut world = World::with_cgroups();
    let (outer, mut inner) = (Shell::start(), Shell::start());
    world.cgroup_task("outer", None, &outer.process());
    world.cgroup_task("inner", Some("outer"), &inner.process());
    assert_eq!(world.standing(&outer.process()), inside("outer"));
    assert_eq!(world.standing(&inner.grandchild()), inside("inner"));
    let refused = world.roster.must_stand_in("outer", &inner.process());
    assert!(matches!(refused, Err(Refusal::NotAMember)), "a child task is not its parent");

    // A process task in the inner one, and one more in that by the same leader.
    let leader = inner.started("sleep 60 & echo $!");
    world.process_task("third", Some("inner"), &leader);
    world.process_task("fourth", Some("third"), &leader);
    assert_eq!(world.standing(&leader), inside("fourth"));
    assert_eq!(world.standing(&inner.process()), inside("inner"));
}

#[test]
fn a_cgroup_made_inside_a_task_by_its_own_code_is_still_the_tasks() {
    let mut world = World::with_cgroups();
    let mut shell = Shell::start();
    world.cgroup_task("a", None, &shell.process());
    let below = world.roster.cgroup_above("a").unwrap().directory().join("container");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("cgroup.procs"), shell.process().id().pid.to_string()).unwrap();
    assert_eq!(world.standing(&shell.process()), inside("a"));
    let connection = world.connect(&mut shell);
    assert_eq!(world.speaker("a", &connection).unwrap(), [shell.process()]);
}

#[test]
fn who_was_moved_out_of_its_tasks_cgroup_is_refused_and_does_not_start_afresh() {
    let mut world = World::with_cgroups();
    let mut shell = Shell::start();
    let elder = shell.grandchild();
    // So that the elder's start and the task's differ by a clock tick.
    std::thread::sleep(std::time::Duration::from_millis(30));
    world.cgroup_task("a", None, &shell.process());
    let younger = shell.grandchild();
    world.move_out(&younger);
    assert!(matches!(world.roster.innermost(&younger), Err(Refusal::Escaped)));
    assert_eq!(world.standing(&elder), Standing::Outside, "it was never inside");
    world.move_out(&shell.process());
    assert!(matches!(world.roster.innermost(&shell.process()), Err(Refusal::Escaped)));
}

#[test]
fn a_process_task_inside_a_cgroup_ends_where_the_cgroup_ends() {
    let mut world = World::with_cgroups();
    let (outer, mut inner) = (Shell::start(), Shell::start());
    world.cgroup_task("outer", None, &outer.process());
    world.move_to(&inner.process(), "outer");
    world.process_task("inner", Some("outer"), &inner.process());
    let grandchild = inner.grandchild();
    assert_eq!(world.standing(&grandchild), inside("inner"));
    world.move_out(&grandchild);
    assert!(matches!(world.roster.innermost(&grandchild), Err(Refusal::Escaped)));
}

#[test]
fn two_tasks_that_have_nothing_to_do_with_each_other_serve_nobody() {
    let mut world = World::with_cgroups();
    let (one, two) = (Shell::start(), Shell::start());
    world.cgroup_task("one", None, &one.process());
    world.process_task("two", None, &two.process());
    world.move_to(&two.process(), "one");
    assert!(matches!(world.roster.innermost(&two.process()), Err(Refusal::Ambiguous)));
}

#[test]
fn the_dead_stand_nowhere() {
    let mut world = World::with_cgroups();
    let shell = Shell::start();
    let process = shell.process();
    world.cgroup_task("a", None, &process);
    drop(shell);
    let refused = world.roster.innermost(&process);
    assert!(matches!(refused, Err(Refusal::Process(ProcessError::Gone))));
}

#[test]
fn an_ended_task_has_no_members() {
    let mut world = World::with_processes_only();
    let mut shell = Shell::start();
    world.process_task("a", None, &shell.process());
    let connection = world.connect(&mut shell);
    assert!(world.speaker("a", &connection).is_ok());
    assert!(world.roster.remove("a").is_some());
    assert_eq!(world.standing(&shell.process()), Standing::Outside);
    assert!(matches!(world.speaker("a", &connection), Err(Refusal::NoSuchTask)));
}

#[test]
fn over_tcp_a_member_is_served_and_a_neighbour_of_the_same_uid_is_not() {
    let mut world = World::with_cgroups();
    let (mut member, mut sibling, mut outsider) = (Shell::start(), Shell::start(), Shell::start());
    world.cgroup_task("a", None, &member.process());
    world.cgroup_task("b", None, &sibling.process());
    let connection = world.connect(&mut member);
    assert_eq!(world.speaker("a", &connection).unwrap(), [member.process()]);
    assert!(matches!(world.speaker("b", &connection), Err(Refusal::MadeElsewhere)));
    for other in [&mut sibling, &mut outsider] {
        let connection = world.connect(other);
        assert!(matches!(world.speaker("a", &connection), Err(Refusal::MadeElsewhere)));
    }
}

#[test]
fn over_tcp_a_process_task_serves_its_descendants_and_no_neighbour() {
    let mut world = World::with_processes_only();
    let (mut member, mut outsider) = (Shell::start(), Shell::start());
    world.process_task("a", None, &member.process());
    // The connection is the grandchild's alone: the shell in between has closed it.
    let port = world.listener.local_addr().unwrap().port();
    let line = format!(
        "bash -c 'bash -c \"exec 7<>/dev/tcp/127.0.0.1/{port}; exec sleep 60\" & echo $!; wait' & sleep 0.2"
    );
    let grandchild = member.started(&line);
    let (stream, client) = world.listener.accept().unwrap();
    let server = world.listener.local_addr().unwrap();
    let connection = Connection { _stream: stream, client, server };
    assert_eq!(world.speaker("a", &connection).unwrap(), [grandchild]);
    let connection = world.connect(&mut outsider);
    assert!(matches!(world.speaker("a", &connection), Err(Refusal::NoHolder { unreadable: 0 })));
}

/// The kernel still says "made in A". That the process has moved on is found by looking who holds the socket.
#[test]
fn a_connection_made_in_one_task_and_used_from_another_is_refused_in_both() {
    let mut world = World::with_cgroups();
    let (mut a, b) = (Shell::start(), Shell::start());
    world.cgroup_task("b", None, &b.process());
    let cgroup = world.tree.as_ref().unwrap().open_task("a", None, &a.process()).unwrap();
    // Led by nobody, so that the answer is the holders' and not that of the escape check.
    let anchor = Anchor::OwnedCgroup { cgroup, leader: None, ends_with: EndsWith::LastProcess };
    world.roster.insert("a".to_owned(), None, Arc::new(anchor));
    let connection = world.connect(&mut a);
    assert!(world.speaker("a", &connection).is_ok());
    world.move_to(&a.process(), "b");
    assert_eq!(world.standing(&a.process()), inside("b"));
    assert!(matches!(world.speaker("a", &connection), Err(Refusal::NoHolder { unreadable: 0 })));
    assert!(matches!(world.speaker("b", &connection), Err(Refusal::MadeElsewhere)));
}

#[test]
fn a_connection_inherited_by_a_child_task_speaks_for_neither_while_both_hold_it() {
    let mut world = World::with_cgroups();
    let mut outer = Shell::start();
    world.cgroup_task("outer", None, &outer.process());
    let connection = world.connect(&mut outer);
    let heir = outer.started("sleep 60 & echo $!");
    assert_eq!(
        world.speaker("outer", &connection).unwrap().len(),
        2,
        "two processes of one task are one principal"
    );
    world.cgroup_task("inner", Some("outer"), &heir);
    assert!(matches!(world.speaker("outer", &connection), Err(Refusal::NotAMember)));
    assert!(matches!(world.speaker("inner", &connection), Err(Refusal::MadeElsewhere)));
    outer.run("exec 7<&-");
    assert!(
        matches!(world.speaker("outer", &connection), Err(Refusal::NotAMember)),
        "the heir alone is not `outer`"
    );
}

#[test]
fn a_closed_client_and_a_killed_one_are_refused() {
    let mut world = World::with_cgroups();
    let mut shell = Shell::start();
    world.cgroup_task("a", None, &shell.process());
    let connection = world.connect(&mut shell);
    assert!(world.speaker("a", &connection).is_ok());
    shell.run("exec 7<&-");
    let refused = eventually(|| world.speaker("a", &connection).err());
    assert!(matches!(refused, Refusal::Socket(SockDiagError::Closed | SockDiagError::NotFound)), "{refused}");

    let connection = world.connect(&mut shell);
    drop(shell);
    let refused = world.speaker("a", &connection).unwrap_err();
    assert!(matches!(refused, Refusal::Socket(SockDiagError::Closed | SockDiagError::NotFound)), "{refused}");
}

#[test]
fn an_address_that_is_not_loopback_is_refused_without_a_question() {
    let mut world = World::with_processes_only();
    let shell = Shell::start();
    world.process_task("a", None, &shell.process());
    let server = world.listener.local_addr().unwrap();
    let refused = world.roster.speaker("a", "192.0.2.1:443".parse().unwrap(), server);
    assert!(matches!(refused, Err(Refusal::NotLoopback)));
}
