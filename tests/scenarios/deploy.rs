//! `deploy/` as it stands: systemd takes the units, real SPIRE takes the entries, and broker and agent run on the example
//! configurations with the capabilities of their units. Only paths, ports and users are this test's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use harness::{
    Program, Running, Scratch, Spire, SpireOptions, Uid, eventually, manual, parts, ports::free_port,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const UNITS: [&str; 3] = ["dayfly-broker", "dayfly-attest", "dayfly-agent"];
/// uid 2001 of `deploy/spire/entries-workloads.json`.
const TRAINER: Uid = Uid(2001);
const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn systemd_takes_the_units() {
    let scratch = Scratch::new().unwrap();
    let names = UNITS.map(|name| format!("{name}.service"));
    let names = names.iter().map(String::as_str).chain(["run-dayfly-agent-tasks.mount"]);
    let files: Vec<PathBuf> =
        names.map(|name| scratch.file(name, 0o644, on_this_machine(&unit(name))).unwrap()).collect();
    let verified =
        Program::new("systemd-analyze").args(["verify", "--man=no"]).args(&files).finish().await.unwrap();
    assert!(verified.status.success() && verified.stderr.is_empty(), "{}", verified.stderr);
    // As deploy/systemd/README.md says; in tenths.
    for (name, most) in [("dayfly-broker", "20"), ("dayfly-attest", "15"), ("dayfly-agent", "50")] {
        let judge = Program::new("systemd-analyze").args(["security", "--offline=yes", "--threshold", most]);
        let judged = judge.arg(scratch.join(format!("{name}.service"))).finish().await.unwrap();
        assert!(judged.status.success(), "{name} is more exposed than {most}: {}", judged.stdout);
    }
}

#[test]
fn the_units_keep_secrets_in_memory_and_tasks_out_of_the_agents_limits() {
    for name in UNITS {
        let unit = unit(&format!("{name}.service"));
        for line in ["LimitCORE=0", "MemorySwapMax=0", "NoNewPrivileges=yes", "Type=notify", "UMask=0077"] {
            assert!(unit.lines().any(|found| found == line), "{name} without {line}");
        }
    }
    let agent = unit("dayfly-agent.service");
    for line in ["Delegate=yes", "KillMode=process", "OOMPolicy=continue", "TasksMax=infinity"] {
        assert!(agent.lines().any(|found| found == line), "dayfly-agent without {line}");
    }
    // Controllers and BPF programs of a cgroup hold for all below it, and the tasks are.
    for key in [
        "MemoryMax",
        "MemoryHigh",
        "CPU",
        "IO",
        "IPAddress",
        "Device",
        "PrivateDevices",
        "ProtectClock",
        "Socket",
    ] {
        assert!(!agent.lines().any(|found| found.starts_with(key)), "{key} would bind every task");
    }
}

#[tokio::test]
async fn spire_takes_the_agents_configuration() {
    let program = Program::new(parts::peer("spire", "spire-agent").unwrap());
    let said = program.args(["validate", "-config"]).arg(manual::root().join("deploy/spire/agent.conf"));
    said.output().await.unwrap();
}

#[tokio::test]
async fn what_is_deployed_gives_a_workload_its_token_and_takes_it_back() {
    let site = Site::start().await;
    let log = site.scratch.join("workload.log");
    let script = r#"while [ ! -s "$DAYFLY_TOKEN_FILE" ]; do sleep 0.05; done
        grep -c "^ey" "$DAYFLY_TOKEN_FILE"; stat -f -c %T "$DAYFLY_TOKEN_FILE"; cat /proc/self/cgroup; exec sleep 600"#;
    let ask = ["run", "--scope", "index-query", "--param", "collection=papers-1", "--", "sh", "-c", script];
    let mut workload = site.workload(ask).start(&log).unwrap();
    let said = eventually("the token", SOON, || async {
        let said = std::fs::read_to_string(&log).unwrap_or_default();
        if said.contains("/task-") { Ok(said) } else { Err(said) }
    });
    let said = said.await.unwrap_or_else(|error| panic!("{error:#}\n{}", site.logs()));
    assert!(said.starts_with("1\ntmpfs\n"), "{said}");
    assert_eq!(site.leases().await, ["active"]);

    workload.signal(Signal::SIGKILL).unwrap();
    workload.ended(SOON).await.unwrap();
    let over = eventually("the lease's end", SOON, || async {
        let states = site.leases().await;
        if states == ["ended verified"] { Ok(()) } else { Err(states) }
    });
    over.await.unwrap_or_else(|error| panic!("{error:#}\n{}", site.logs()));
    site.admin(["audit", "verify"]).output().await.unwrap();

    // Root on the broker's host, without SPIRE.
    let glass = site.scratch.join("run/dayfly-broker/break-glass.sock");
    let glass =
        Program::new(parts::binary("dayfly").unwrap()).args(["task", "list", "--break-glass"]).arg(glass);
    glass.output().await.unwrap();
    assert!(site.broker.log().contains("break_glass"), "{}", site.broker.log());
}

#[tokio::test]
async fn a_refused_caller_is_back_in_the_cgroup_of_its_own_user() {
    let site = Site::start().await;
    let home = OwnCgroup::of(TRAINER);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", home.0.display());
    let dayfly = parts::binary("dayfly").unwrap();
    let asked = Program::new("sh")
        .args(["-c", &enter, "enter", "setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "--"])
        .arg(dayfly)
        .args(["run", "--scope", "nothing", "--", "true"])
        .env("DAYFLY_AGENT_SOCKET", site.scratch.join("run/dayfly/agent.sock"));
    let asked = asked.finish().await.unwrap();
    assert!(asked.stderr.contains("SCOPE_NOT_GRANTED"), "{}\n{}", asked.stderr, site.logs());
    let tasks = home.0.parent().unwrap().join(&site.tree);
    let left: Vec<_> =
        std::fs::read_dir(&tasks).unwrap().flatten().filter(|entry| entry.path().is_dir()).collect();
    assert!(left.is_empty(), "{left:?}\n{}", site.logs());
    assert!(!site.agent.log().contains("could not move"), "{}", site.agent.log());
}

/// Broker and node on one machine, on the files of `deploy/`.
struct Site {
    broker: Running,
    attest: Running,
    agent: Running,
    address: String,
    /// Name of the agent's corner of the cgroup hierarchy.
    tree: String,
    spire: Spire,
    _tasks: TaskMount,
    scratch: Scratch,
}

impl Site {
    async fn start() -> Self {
        let spire = SpireOptions { delegates: vec!["/dayfly/attest".to_owned()], ..SpireOptions::default() };
        let spire = Spire::start("example.org", spire).await.unwrap();
        let scratch = Scratch::new().unwrap();
        let (broker_uid, attest_uid) = (Uid::fresh(), Uid::fresh());
        apply_entries(&spire, &scratch, broker_uid, attest_uid).await;

        let address = format!("127.0.0.1:{}", free_port());
        let (broker_toml, agent_toml) = write_configurations(&scratch, &spire, &address).await;
        for name in ["var/lib/dayfly", "var/lib/dayfly-keys", "run/dayfly-broker"] {
            scratch.folder_of(name, broker_uid.0).unwrap();
        }
        scratch.folder_of("run/dayfly-attest", attest_uid.0).unwrap();
        scratch.folder("run/dayfly-attest", 0o711).unwrap();
        let tasks = TaskMount::at(&scratch.folder("run/dayfly/agent/tasks", 0o755).unwrap()).await;

        let broker = run("dayfly-broker", Some(broker_uid), "run", &broker_toml, &scratch);
        let attest = run("dayfly-attest", Some(attest_uid), "attest", &agent_toml, &scratch);
        let agent = run("dayfly-agent", None, "run", &agent_toml, &scratch);
        let runtime_dir = scratch.join("run/dayfly/agent");
        let digest = Sha256::digest(runtime_dir.as_os_str().as_encoded_bytes());
        let tree = format!("dayfly-{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3]);
        let site = Self { broker, attest, agent, address, tree, spire, _tasks: tasks, scratch };
        site.apply_documents().await;
        site.wait_for_agent().await;
        site
    }

    /// As deploy/documents/README.md says, but for what needs Vault or AWS: applying those scopes asks them.
    async fn apply_documents(&self) {
        let names = ["documents/identities", "documents/index"];
        let texts = names.map(|name| manual::file(format!("deploy/{name}.yaml")).unwrap());
        let file = self.scratch.file("documents.yaml", 0o644, texts.join("\n---\n")).unwrap();
        let apply = self.admin(["apply", "--yes", "-f"]).arg(file);
        let applied = eventually("the documents", SOON, || async { apply.output().await });
        applied.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    async fn wait_for_agent(&self) {
        let list = self.admin(["node", "list", "-o", "json"]);
        let attached = eventually("the agent", SOON, || async {
            let said = list.output().await?;
            anyhow::ensure!(
                said.contains("\"attached\"") && said.contains("spiffe://example.org/node/n1"),
                "{said}"
            );
            Ok(())
        });
        attached.await.unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
    }

    /// `dayfly` as the admin ann.
    fn admin<const N: usize>(&self, words: [&str; N]) -> Program {
        Program::new(parts::binary("dayfly").unwrap())
            .args(words)
            .env("DAYFLY_BROKER", &self.address)
            .env("DAYFLY_BROKER_ID", "spiffe://example.org/dayfly/broker")
            .env("SPIFFE_ENDPOINT_SOCKET", self.spire.endpoint())
    }

    /// `dayfly` as the workload.
    fn workload<const N: usize>(&self, words: [&str; N]) -> Program {
        let program = TRAINER.program(parts::binary("dayfly").unwrap()).args(words);
        program.env("DAYFLY_AGENT_SOCKET", self.scratch.join("run/dayfly/agent.sock"))
    }

    /// State and outcome of every lease.
    async fn leases(&self) -> Vec<String> {
        let said = self.admin(["lease", "list", "--all", "-o", "json"]).output().await.unwrap();
        let said: Value = serde_json::from_str(&said).unwrap();
        let word = |lease: &Value, name: &str| lease[name].as_str().unwrap_or_default().to_owned();
        let leases = said["leases"].as_array().unwrap().iter();
        leases
            .map(|one| format!("{} {}", word(one, "state"), word(one, "outcome")).trim().to_owned())
            .collect()
    }

    fn logs(&self) -> String {
        let all = [&self.broker, &self.attest, &self.agent];
        all.map(|running| format!("--- {}\n{}\n", running.log_path().display(), running.log_tail())).concat()
    }
}

/// The three files as deploy/spire/README.md says, with users and paths of this machine.
async fn apply_entries(spire: &Spire, scratch: &Scratch, broker: Uid, attest: Uid) {
    let server = |words: &[&str]| {
        let socket = spire.workload_socket().ancestors().nth(2).unwrap().join("server.sock");
        Program::new(parts::peer("spire", "spire-server").unwrap()).args(words).arg("-socketPath").arg(socket)
    };
    let agents = server(&["agent", "list", "-output", "json"]).output().await.unwrap();
    let agents: Value = serde_json::from_str(&agents).unwrap();
    let node = format!("spiffe://example.org{}", agents["agents"][0]["id"]["path"].as_str().unwrap());
    // What `spire-server token generate -spiffeID` does for the machine's name.
    let alias = |name: &str| {
        json!({ "parent_id": node, "spiffe_id": format!("spiffe://example.org/machine/{name}"),
            "selectors": [{ "type": "spiffe_id", "value": node }] })
    };
    let mut batches = vec![json!({ "entries": [alias("n1"), alias("broker-host")] }).to_string()];
    for name in ["broker", "node", "workloads"] {
        let text = manual::file(format!("deploy/spire/entries-{name}.json")).unwrap();
        let text = text
            .replace("NODE", "n1")
            .replace("user:dayfly-broker", &format!("uid:{}", broker.0))
            .replace("user:dayfly-attest", &format!("uid:{}", attest.0))
            .replace("uid:1001", "uid:0");
        batches.push(on_this_machine(&text));
    }
    for (number, batch) in batches.iter().enumerate() {
        let file = scratch.file(&format!("entries-{number}.json"), 0o600, batch).unwrap();
        let answer =
            server(&["entry", "create", "-output", "json"]).arg("-data").arg(file).output().await.unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let results = answer["results"].as_array().unwrap();
        assert!(results.iter().all(|result| result["status"]["code"] == 0), "{answer}");
    }
    // The agent takes over all entries at once.
    spire.wait_for_svid(TRAINER, "spiffe://example.org/training/llm").await.unwrap();
}

/// `broker.toml` and `agent.toml`.
async fn write_configurations(scratch: &Scratch, spire: &Spire, address: &str) -> (PathBuf, PathBuf) {
    let root = scratch.path().display();
    let loopback = || format!("127.0.0.1:{}", free_port());
    let broker = manual::file("deploy/config/broker.toml").unwrap();
    let agent = manual::file("deploy/config/agent.toml").unwrap();
    scratch.folder("etc/dayfly", 0o755).unwrap();
    scratch.file("etc/dayfly/vault-ca.pem", 0o644, spire.bundle_pem().await.unwrap()).unwrap();
    let [broker, agent] = [broker, agent].map(|text| {
        text.replace("unix:/run/spire/agent/public/api.sock", &spire.endpoint())
            .replace("/run/spire/agent/private/admin.sock", &spire.admin_socket().display().to_string())
            .replace("\"/run/", &format!("\"{root}/run/"))
            .replace("\"/var/", &format!("\"{root}/var/"))
            .replace("\"/etc/", &format!("\"{root}/etc/"))
            .replace("0.0.0.0:7443", address)
            .replace("broker.example.org:7443", address)
            .replace("0.0.0.0:8444", &loopback())
            .replace("0.0.0.0:8445", &loopback())
            .replace("127.0.0.1:8080", &loopback())
            .replace("127.0.0.1:9464", &loopback())
            .replace("127.0.0.1:9465", &loopback())
    });
    for text in [&broker, &agent] {
        assert!(!text.contains("\"/run") && !text.contains("\"/var") && !text.contains("0.0.0.0"), "{text}");
    }
    let write = |name: &str, text: String| scratch.file(&format!("etc/dayfly/{name}"), 0o644, text).unwrap();
    (write("broker.toml", broker), write("agent.toml", agent))
}

/// The program of a unit: its user, no new privileges, and of root's capabilities those that the unit names.
fn run(name: &str, user: Option<Uid>, verb: &str, config: &Path, scratch: &Scratch) -> Running {
    let unit = unit(&format!("{name}.service"));
    let program = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
    let words: Vec<&str> = program.split(' ').collect();
    assert_eq!(words[1], verb, "{program}");
    let kept = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let kept =
        kept.split_whitespace().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let wrapped = match user {
        Some(uid) => uid.program("setpriv").arg("--no-new-privs"),
        None => Program::new("setpriv")
            .arg("--no-new-privs")
            .arg(format!("--bounding-set=-all{}", kept.collect::<String>()))
            .arg("--inh-caps=-all"),
    };
    let wrapped =
        wrapped.arg("--").arg(parts::binary(words[0]).unwrap()).args([verb, "--config"]).arg(config);
    wrapped.start(&scratch.join(format!("{name}.log"))).unwrap()
}

fn unit(name: &str) -> String {
    manual::file(format!("deploy/systemd/{name}")).unwrap()
}

/// The programs where `scripts/test` built them.
fn on_this_machine(text: &str) -> String {
    let folder = parts::binary("dayfly").unwrap();
    text.replace("/usr/bin/", &format!("{}/", folder.parent().unwrap().display()))
}

/// The memory file system of `run-dayfly-agent-tasks.mount`.
struct TaskMount(PathBuf);

impl TaskMount {
    async fn at(folder: &Path) -> Self {
        let unit = unit("run-dayfly-agent-tasks.mount");
        let options = unit.lines().find_map(|line| line.strip_prefix("Options=")).unwrap();
        let mount =
            |options: &str| Program::new("mount").args(["-t", "tmpfs", "-o", options, "dayfly"]).arg(folder);
        if let Err(error) = mount(options).output().await {
            // The unit's own words: `noswap` is of Linux 6.4.
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            let numbers: Vec<u32> = release.split(['.', '-']).flat_map(str::parse).take(2).collect();
            assert!(numbers < vec![6, 4], "{error:#}");
            mount(&options.replace(",noswap", "")).output().await.unwrap();
        }
        Self(folder.to_owned())
    }
}

impl Drop for TaskMount {
    fn drop(&mut self) {
        let _gone = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A cgroup that a user owns, as systemd gives one to each session.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn of(uid: Uid) -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).unwrap();
        let mine = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let mine = mine.lines().find_map(|line| line.strip_prefix("0::/")).unwrap();
        let own = Path::new(mount.split(' ').nth(4).unwrap()).join(mine);
        let folder = own.join(format!("dayfly-test-user-{}", rand::random::<u32>()));
        std::fs::create_dir(&folder).unwrap();
        for path in [folder.clone(), folder.join("cgroup.procs")] {
            std::os::unix::fs::chown(path, Some(uid.0), Some(uid.0)).unwrap();
        }
        Self(folder)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir(&self.0);
    }
}
