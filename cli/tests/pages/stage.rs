//! Runs a page: a broker, a folder, and the real `dayfly`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::compare::{fits, for_the_page};
use super::page::{Command, Part, parts};
use super::workload::Workloads;
use crate::world::{BROKER, World};

/// Runs the page and panics with what is not as it says.
pub async fn run(page: &Path) {
    let text = std::fs::read_to_string(page).unwrap();
    let mut stage = Stage::new().await;
    let mut came = Vec::new();
    for part in parts(&text) {
        match part {
            Part::Apply { line, yaml } => stage.apply(line, yaml).await,
            Part::File { name, text } => {
                let path = stage.folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Part::Workloads { line, lines } => stage.workloads.act(&mut stage.world, line, &lines).await,
            Part::Command(command) => {
                let (code, lines) = stage.type_in(&command).await;
                came.push((command, code, lines));
            }
        }
    }
    assert!(!came.is_empty(), "{} runs no command", page.display());
    let wrong: Vec<_> = came
        .iter()
        .filter(|(command, code, lines)| *code != command.exit || !fits(&command.shown, lines))
        .collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(page, updated(&text, &came)).unwrap();
        return;
    }
    let told: Vec<String> =
        wrong.iter().map(|(command, code, lines)| told(page, command, *code, lines)).collect();
    assert!(told.is_empty(), "{}\nUPDATE_GOLDEN=1 writes what came; read the diff", told.join("\n"));
}

struct Stage {
    world: World,
    workloads: Workloads,
    folder: PathBuf,
    admins: BTreeMap<String, String>,
}

impl Stage {
    async fn new() -> Self {
        // Whoever types on a page does so on one host.
        let world = World::configured("approvals_from_one_host = true", "").await;
        let folder = world.folder.path().join("page");
        std::fs::create_dir(&folder).unwrap();
        Self { world, workloads: Workloads::default(), folder, admins: BTreeMap::new() }
    }

    async fn apply(&mut self, line: usize, yaml: String) {
        let request = dayfly_client::v1::ApplyRequest { yaml, ..Default::default() };
        let answer = self.world.try_apply(request).await;
        let answer = answer.unwrap_or_else(|error| panic!("the documents of line {line}: {error:?}"));
        assert!(answer.faults.is_empty(), "the documents of line {line}: {:#?}", answer.faults);
    }

    async fn type_in(&mut self, command: &Command) -> (i32, Vec<String>) {
        if !self.admins.contains_key(&command.admin) {
            let id = format!("spiffe://example.org/admin/{}", command.admin);
            let endpoint = self.world.workload_api(&id).await;
            self.admins.insert(command.admin.clone(), endpoint);
        }
        let dayfly = Path::new(env!("CARGO_BIN_EXE_dayfly")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        // Both streams in one, as a terminal shows them.
        let output = tokio::process::Command::new("sh")
            .arg("-c")
            .arg(format!("exec 2>&1\n{}", command.typed))
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", format!("{}:{path}", dayfly.display()))
            .env("HOME", &self.folder)
            .env("DAYFLY_BROKER", self.world.address())
            .env("DAYFLY_BROKER_ID", BROKER)
            .env("DAYFLY_WORKLOAD_API", &self.admins[&command.admin])
            .envs(&self.workloads.names)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| line.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        (output.status.code().unwrap_or(-1), lines)
    }
}

fn told(page: &Path, command: &Command, code: i32, came: &[String]) -> String {
    let name = page.file_name().unwrap().to_string_lossy();
    let Command { line, typed, shown, exit, .. } = command;
    let text = |lines: &[String]| lines.join("\n");
    format!(
        "{name}:{line}: {typed}\n--- the page shows (exit {exit})\n{}\n--- what came (exit {code})\n{}\n",
        text(shown),
        text(came)
    )
}

/// The page with what came in place of what it shows.
fn updated(text: &str, came: &[(Command, i32, Vec<String>)]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (command, code, new) in came.iter().rev() {
        if *code == command.exit && fits(&command.shown, new) {
            continue;
        }
        let mut block = for_the_page(&command.shown, new);
        if *code != 0 {
            block.push(format!("[exit {code}]"));
        }
        let (first, count) = command.place;
        lines.splice(first - 1..first - 1 + count, block);
    }
    lines.join("\n") + "\n"
}
