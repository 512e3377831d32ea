//! Tasks on real SPIRE: what stands in a task, what can be opened from inside it, and the token file.

use std::time::Duration;

use dayfly_client::{Identity, IdentityOptions};
use harness::{Entry, Uid, World, WorldOptions, eventually};
use nix::sys::signal::Signal;

use crate::life::{outcomes, under_run};

/// Opens a task from inside a task, by the same `dayfly run`.
const NESTED: &str = r#"
import os, subprocess, sys
print("outer", os.environ["DAYFLY_TASK_ID"], flush=True)
dayfly = sys.argv[1]
inner = subprocess.run([dayfly, "run", *sys.argv[2:], "--", "sh", "-c", "echo inner $DAYFLY_TASK_ID"],
                       capture_output=True, text=True)
print(inner.stdout.strip() or inner.stderr.strip().replace("\n", " "), "exit", inner.returncode, flush=True)
"#;

fn dayfly() -> String {
    harness::parts::binary("dayfly").unwrap().display().to_string()
}

#[tokio::test]
async fn what_is_opened_inside_a_task_is_its_child_and_no_wider() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();
    let run = |inner: &[&'static str]| {
        let program = under_run(&world, uid, &["--scope", "index-read"], NESTED).arg(dayfly());
        inner.iter().fold(program, |program, word| program.arg(word))
    };
    let said = run(&["--scope", "index-read"]).output().await;
    let said = said.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    let id =
        |word: &str| said.lines().find_map(|line| line.strip_prefix(word)).map(str::trim).map(str::to_owned);
    let (outer, inner) =
        (id("outer").unwrap(), id("inner").unwrap_or_else(|| panic!("{said}\n{}", world.logs())));
    let inner = inner.split_whitespace().next().unwrap().to_owned();
    let tasks = world.tasks().await.unwrap();
    let child = tasks.iter().find(|task| task.task_id == inner).unwrap();
    assert_eq!(child.parent_task_id, outer, "the kernel says where the caller stands");
    assert_eq!(child.session_id, outer);

    // A task that declared nothing gives its children nothing.
    let program = under_run(&world, uid, &[], NESTED).arg(dayfly()).args(["--scope", "index-read"]);
    let said = program.output().await.unwrap();
    assert!(said.contains("OUTSIDE_CEILING") && said.contains("exit 1"), "{said}");
}

#[tokio::test]
async fn a_parents_end_takes_its_children_along() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();
    let script = r#"
import subprocess, sys, time
subprocess.Popen([sys.argv[1], "run", "--scope", "index-read", "--", "sleep", "600"])
time.sleep(600)
"#;
    let log = world.scratch.join("parent.log");
    let mut parent =
        under_run(&world, uid, &["--scope", "index-read"], script).arg(dayfly()).start(&log).unwrap();
    for _ in 0..200 {
        if world.tasks().await.unwrap().len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.tasks().await.unwrap().len(), 2, "{}", world.logs());
    parent.signal(Signal::SIGKILL).unwrap();
    parent.ended(Duration::from_secs(5)).await.unwrap();
    for _ in 0..100 {
        if world.tasks().await.unwrap().iter().all(|task| task.state == "ended") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut tasks = world.tasks().await.unwrap();
    tasks.sort_by_key(|task| task.parent_task_id.len());
    assert_eq!(tasks[0].end_cause, "anchor_gone", "{}", world.logs());
    assert!(["parent_ended", "anchor_gone"].contains(&tasks[1].end_cause.as_str()), "{}", tasks[1].end_cause);
}

#[tokio::test]
async fn the_token_file_is_the_workloads_own_and_goes_with_the_task() {
    let mut world = World::start(WorldOptions::default()).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();
    let service = world.workload("/service/index").await.unwrap();
    let script = r#"
import os, stat, time
path = os.environ["DAYFLY_TOKEN_FILE"]
for _ in range(200):
    if os.path.exists(path): break
    time.sleep(0.05)
print("mode", oct(stat.S_IMODE(os.stat(path).st_mode)), "folder", oct(stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode)))
print("path", path)
print("token", open(path).read().strip(), flush=True)
time.sleep(600)
"#;
    let log = world.scratch.join("token.log");
    let mut program = under_run(&world, uid, &["--scope", "index-read"], script).start(&log).unwrap();
    let text = program
        .ready(Duration::from_secs(20), || async {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("token ") { Ok(text) } else { Err("no token yet") }
        })
        .await
        .unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    let word = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    // The folder is the agent's: nobody may list it or put another file in the token's place.
    assert_eq!(word("mode "), "0o400 folder 0o711");
    let token = word("token ");
    assert!(introspect(&world, service, &token).await.contains("\"active\":true"));
    // Somebody else than its audience learns nothing.
    assert!(introspect(&world, uid, &token).await.contains("\"active\":false"));
    program.signal(Signal::SIGKILL).unwrap();
    program.ended(Duration::from_secs(5)).await.unwrap();
    let refused = eventually("the token's end", Duration::from_secs(5), || async {
        let said = introspect(&world, service, &token).await;
        if said.contains("\"active\":false") { Ok(()) } else { Err(said) }
    });
    refused.await.unwrap_or_else(|error| panic!("{error:#}\n{}", world.logs()));
    assert_eq!(outcomes(&mut world, Duration::from_secs(5)).await, ["verified"]);
    let path = word("path ");
    assert!(!std::path::Path::new(&path).exists(), "{path} is still there");
}

#[tokio::test]
async fn exit_codes_and_signals_are_the_programs_own() {
    let world = World::start(WorldOptions::default()).await.unwrap();
    let uid = world.workload("/train/a").await.unwrap();
    let run = |words: &[&str]| world.dayfly(uid).unwrap().args(["run", "--"]).args(words);
    assert_eq!(run(&["sh", "-c", "exit 7"]).finish().await.unwrap().status.code(), Some(7));
    assert_eq!(run(&["/nowhere"]).finish().await.unwrap().status.code(), Some(127));
    let killed = run(&["sh", "-c", "kill -TERM $$"]).finish().await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed.status), Some(15));
    let two = world.dayfly(uid).unwrap().args([
        "run",
        "--scope",
        "index-read",
        "--scope",
        "index-read",
        "--",
        "true",
    ]);
    let two = two.finish().await.unwrap();
    assert_eq!(two.status.code(), Some(2), "{}", two.stderr);
}

#[tokio::test]
async fn an_identity_that_is_not_one_opens_nothing() {
    let world = World::start(WorldOptions::default()).await.unwrap();
    let nobody = Uid::fresh();
    let said = world.dayfly(nobody).unwrap().args(["run", "--", "true"]).finish().await.unwrap();
    assert_eq!(said.status.code(), Some(1));
    assert!(said.stderr.contains(&nobody.0.to_string()) && said.stderr.contains("next:"), "{}", said.stderr);
    let two = world.workload("/train/one").await.unwrap();
    world.spire.create_entry(Entry::of_uid(world.id("/train/two"), two)).await.unwrap();
    let said = world.dayfly(two).unwrap().args(["run", "--", "true"]).finish().await.unwrap();
    assert_eq!(said.status.code(), Some(1));
    for id in ["/train/one", "/train/two"] {
        assert!(said.stderr.contains(&world.id(id)), "{}", said.stderr);
    }
    // This process is root, and so is the agent: neither is a workload.
    let identity =
        Identity::from_workload_api(Some(&world.spire.endpoint()), IdentityOptions::default()).await;
    assert_eq!(identity.unwrap().spiffe_id().to_string(), world.id(harness::world::ADMIN));
}

/// Asks as a service with its own X.509-SVID, in a process of its own.
pub async fn introspect(world: &World, uid: Uid, token: &str) -> String {
    let folder = world.scratch.folder_of(&format!("svid-{}", rand::random::<u32>()), uid.0).unwrap();
    let agent = harness::parts::peer("SPIRE", "spire-agent").unwrap();
    let fetch =
        uid.program(agent).args(["api", "fetch", "x509", "-socketPath"]).arg(world.spire.workload_socket());
    fetch.arg("-write").arg(&folder).output().await.unwrap();
    let script = r#"
import http.client, ssl, sys, urllib.parse
folder, address, token = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.load_verify_locations(folder + "/bundle.0.pem")
context.load_cert_chain(folder + "/svid.0.pem", folder + "/svid.0.key")
connection = http.client.HTTPSConnection(address, context=context, timeout=10)
connection.request("POST", "/introspect", urllib.parse.urlencode({"token": token}),
                   {"Content-Type": "application/x-www-form-urlencoded"})
answer = connection.getresponse()
print(answer.status, answer.read().decode().replace(" ", ""))
"#;
    let python = harness::Python::find().unwrap().path();
    let program =
        uid.program(python).args(["-c", script]).arg(&folder).args([world.introspection.as_str(), token]);
    program.output().await.unwrap()
}
