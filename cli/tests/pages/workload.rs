//! What workloads do while a page is read, one line each:
//!
//! ```text
//! task NAME by ID on NODE: SCOPE(k=v, …), …         opens a root task; NAME becomes its id
//! task NAME by ID on NODE in TASK: …                opens one inside another, as a process that stands in it would
//! task NAME by ID direct: …                         without a node agent
//! issue NAME in TASK: SCOPE(k=v, …)                 a credential for the task's holder; NAME becomes the lease's id
//! refused NAME in TASK: SCOPE(k=v, …)               the same, and it must be refused; NAME becomes the request's id
//! refused NAME CODE in TASK: …                      … with this reason
//! check NAME in TASK: ACTION ARTIFACT[@DIGEST]      asks about an artifact; NAME becomes the decision's id
//! denied NAME [CODE] in TASK: ACTION ARTIFACT       the same, and it must be refused; NAME becomes the request's id
//! end TASK                                          the task ends, and every lease under it as far as targets can
//! ```
//!
//! `issue`, `refused`, `check` and `denied` take `by ID` behind `in TASK`: another identity that stands in the task. `NODE` is the last
//! segment of `spiffe://example.org/node/NODE`, which the page's documents must admit.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use dayfly_client::{BrokerClient, CallError, v1};
use tonic::Status;

use crate::world::{ADMIN, World, anchor};

/// The tasks of a page, and what its commands may name.
#[derive(Default)]
pub struct Workloads {
    /// Variables of every command.
    pub names: BTreeMap<String, String>,
    tasks: HashMap<String, OpenTask>,
    connections: HashMap<String, BrokerClient>,
}

#[derive(Clone)]
struct OpenTask {
    id: String,
    key: String,
    holder: String,
    /// The agent that speaks for it; none for a direct caller.
    node: Option<String>,
}

/// A line, word by word: `VERB WORD… [by ID] [on NODE] [in TASK] [direct]: SCOPES`.
struct Line<'a> {
    verb: &'a str,
    words: Vec<&'a str>,
    by: Option<&'a str>,
    on: Option<&'a str>,
    within: Option<&'a str>,
    scopes: Vec<v1::ScopeRequest>,
    /// What stands behind the colon.
    said: &'a str,
}

impl Workloads {
    /// Does what the lines say, in order.
    pub async fn act(&mut self, world: &mut World, number: usize, lines: &[String]) {
        for text in lines {
            let line = Line::read(text);
            let done = match line.verb {
                "task" => self.open(world, &line).await,
                "issue" => self.issue(world, &line).await,
                "refused" => self.refused(world, &line).await,
                "check" => self.check(world, &line).await,
                "denied" => self.denied(world, &line).await,
                "end" => self.end(world, &line).await,
                other => panic!("block of line {number}: no workload can {other:?}"),
            };
            done.unwrap_or_else(|status| {
                panic!("block of line {number}: {text}: {:?}", CallError::from(status))
            });
        }
    }

    async fn client(&mut self, world: &mut World, id: &str) -> BrokerClient {
        if !self.connections.contains_key(id) {
            let client = world.connect(id).await;
            self.connections.insert(id.to_owned(), client);
        }
        self.connections[id].clone()
    }

    fn task(&self, name: &str) -> OpenTask {
        self.tasks.get(name).unwrap_or_else(|| panic!("no task {name} was opened")).clone()
    }

    async fn open(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let [name] = line.words[..] else { panic!("a task has one name") };
        let holder = line.by.expect("`by` says who opens it").to_owned();
        let node = line.on.map(|node| format!("spiffe://example.org/node/{node}"));
        let client = self.client(world, node.as_deref().unwrap_or(&holder)).await;
        let request = v1::OpenTaskRequest {
            subject_token: node.as_ref().map(|node| world.subject_token(&holder, node)).unwrap_or_default(),
            parent_task_id: line.within.map(|parent| self.task(parent).id).unwrap_or_default(),
            ceiling: line.scopes.clone(),
            anchor: node.as_ref().map(|_| anchor()),
            ..Default::default()
        };
        let opened = client.credentials().open_task(request).await?.into_inner();
        self.names.insert(name.to_owned(), opened.task_id.clone());
        self.tasks
            .insert(name.to_owned(), OpenTask { id: opened.task_id, key: opened.task_key, holder, node });
        Ok(())
    }

    async fn ask(
        &mut self,
        world: &mut World,
        line: &Line<'_>,
    ) -> Result<v1::IssueCredentialResponse, Status> {
        let task = self.task(line.within.expect("`in` says under which task"));
        let asker = line.by.unwrap_or(&task.holder);
        let client = self.client(world, task.node.as_deref().unwrap_or(asker)).await;
        let [scope] = &line.scopes[..] else { panic!("one scope is asked for at a time") };
        let request = v1::IssueCredentialRequest {
            subject_token: task
                .node
                .as_ref()
                .map(|node| world.subject_token(asker, node))
                .unwrap_or_default(),
            task_id: task.id,
            task_key: task.key,
            scope: Some(scope.clone()),
            ..Default::default()
        };
        client.credentials().issue_credential(request).await.map(tonic::Response::into_inner)
    }

    async fn issue(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let [name] = line.words[..] else { panic!("a lease has one name") };
        let issued = self.ask(world, line).await?;
        self.names.insert(name.to_owned(), issued.lease_id);
        Ok(())
    }

    async fn refused(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let refusal = self.ask(world, line).await.expect_err("the page says it is refused");
        self.name_refusal(line, refusal);
        Ok(())
    }

    fn name_refusal(&mut self, line: &Line<'_>, refusal: Status) {
        let refusal = CallError::from(refusal);
        let (name, reason) = match line.words[..] {
            [name] => (name, None),
            [name, reason] => (name, Some(reason)),
            _ => panic!("a refusal has a name, and at most a reason"),
        };
        assert!(reason.is_none() || refusal.reason.as_deref() == reason, "{refusal:?}");
        self.names.insert(name.to_owned(), refusal.request_id.expect("a refusal names its request"));
    }

    async fn authorize(
        &mut self,
        world: &mut World,
        line: &Line<'_>,
    ) -> Result<v1::AuthorizeResponse, Status> {
        let task = self.task(line.within.expect("`in` says under which task"));
        let asker = line.by.unwrap_or(&task.holder);
        let client = self.client(world, task.node.as_deref().unwrap_or(asker)).await;
        let (action, artifact) = line.said.split_once(' ').expect("an action and an artifact");
        let (name, digest) = artifact.split_once('@').unwrap_or((artifact, ""));
        let token = task.node.as_ref().map(|node| world.subject_token(asker, node));
        let request = v1::AuthorizeRequest {
            subject_token: token.unwrap_or_default(),
            task_id: task.id,
            task_key: task.key,
            action: action.to_owned(),
            artifact: Some(v1::Artifact { name: name.to_owned(), digest: digest.to_owned() }),
            ..Default::default()
        };
        client.credentials().authorize(request).await.map(tonic::Response::into_inner)
    }

    async fn check(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let [name] = line.words[..] else { panic!("a decision has one name") };
        let answer = self.authorize(world, line).await?;
        self.names.insert(name.to_owned(), answer.decision_id);
        Ok(())
    }

    async fn denied(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let refusal = self.authorize(world, line).await.expect_err("the page says it is denied");
        self.name_refusal(line, refusal);
        Ok(())
    }

    async fn end(&mut self, world: &mut World, line: &Line<'_>) -> Result<(), Status> {
        let [name] = line.words[..] else { panic!("one task ends at a time") };
        let task = self.task(name);
        let client = self.client(world, task.node.as_deref().unwrap_or(&task.holder)).await;
        let token = task.node.as_ref().map(|node| world.subject_token(&task.holder, node));
        let request = v1::EndTaskRequest {
            subject_token: token.unwrap_or_default(),
            task_id: task.id,
            task_key: task.key,
        };
        client.credentials().end_task(request).await?;
        self.settle(world, &lease_filter(&self.task(name).id)).await
    }

    /// Waits until each lease is over, or is known to run out.
    async fn settle(&mut self, world: &mut World, leases: &v1::ListLeasesRequest) -> Result<(), Status> {
        let admin = self.client(world, ADMIN).await;
        for _ in 0..200 {
            let open = admin.admin().list_leases(leases.clone()).await?.into_inner().leases;
            if open.iter().all(|lease| lease.runs_out_at.is_some()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("leases are still being taken back after 5 s");
    }
}

/// The leases of a whole tree, by its root.
fn lease_filter(root: &str) -> v1::ListLeasesRequest {
    v1::ListLeasesRequest { session_id: root.to_owned(), ..v1::ListLeasesRequest::default() }
}

impl<'a> Line<'a> {
    fn read(text: &'a str) -> Self {
        let (head, scopes) = text.split_once(": ").unwrap_or((text, ""));
        let mut words = head.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let mut line = Line {
            verb,
            words: Vec::new(),
            by: None,
            on: None,
            within: None,
            scopes: read_scopes(scopes),
            said: scopes.trim(),
        };
        while let Some(word) = words.next() {
            let mut value =
                || Some(words.next().unwrap_or_else(|| panic!("nothing behind {word:?} in {text:?}")));
            match word {
                "by" => line.by = value(),
                "on" => line.on = value(),
                "in" => line.within = value(),
                "direct" => line.on = None,
                _ => line.words.push(word),
            }
        }
        line
    }
}

/// `a(k=v, l=w), b`
fn read_scopes(text: &str) -> Vec<v1::ScopeRequest> {
    let mut scopes = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let name_ends = rest.find(['(', ',']).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(name_ends);
        let (values, behind) = match behind.strip_prefix('(') {
            Some(inner) => inner.split_once(')').unwrap_or_else(|| panic!("`(` is not closed in {text:?}")),
            None => ("", behind),
        };
        let pair = |pair: &str| pair.trim().split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
        scopes.push(v1::ScopeRequest {
            scope: name.trim().to_owned(),
            parameters: values.split(',').filter_map(pair).collect(),
        });
        rest = behind.trim_start_matches(',').trim();
    }
    scopes
}

#[test]
fn a_line_is_read_word_by_word() {
    let line = Line::read("refused R TASK_NOT_OPEN in T by spiffe://example.org/a: a(k=v, l=w), b");
    assert_eq!((line.verb, &line.words[..]), ("refused", &["R", "TASK_NOT_OPEN"][..]));
    assert_eq!((line.within, line.by, line.on), (Some("T"), Some("spiffe://example.org/a"), None));
    let scopes: Vec<(&str, usize)> =
        line.scopes.iter().map(|one| (one.scope.as_str(), one.parameters.len())).collect();
    assert_eq!(scopes, [("a", 2), ("b", 0)]);
}
