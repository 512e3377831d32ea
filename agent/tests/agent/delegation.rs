//! Tasks for others: who may open one through the agent, and who may take one.

use dayfly_client::v1;

use crate::world::{BASH, LAUNCHER, Shell, World, eventually, example};

fn workload(options: &str) -> String {
    format!("{} {options} 2>&1", example().display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_opens_a_task_for_another_and_an_outsider_does_not() {
    let world = World::start().await;
    let mut planner = world.task(&["--scope", "index"]);
    let task = planner.var("DAYFLY_TASK_ID");
    let socket = world.socket().display().to_string();
    let offer = planner.run(&workload(&format!("--socket {socket} --scope index --delegate {BASH}")));
    let asked = world.broker.book().delegated.pop().expect("the broker was asked");
    assert_eq!((&*asked.subject_token, &*asked.task_id, &*asked.spiffe_id), (LAUNCHER, &*task, BASH));
    assert!(world.broker.book().offers.contains_key(&offer), "{offer}");

    let line = workload(&format!("--socket {socket} --task {task} --delegate {BASH}"));
    let said = Shell::outside().run(&line);
    assert!(said.contains("UNKNOWN_TASK"), "{said}");
    let agent = world.client().await;
    let refused = |request| async {
        let refused = agent.credentials().delegate_task(request).await.expect_err("a refusal");
        dayfly_client::CallError::from(refused).reason
    };
    let base = v1::DelegateTaskRequest { task_id: task, ..Default::default() };
    let forged = v1::DelegateTaskRequest { subject_token: "eyJ".to_owned(), ..base.clone() };
    assert_eq!(refused(forged).await.as_deref(), Some("AGENT_ONLY_FIELD"));
    let keyed = v1::DelegateTaskRequest { task_key: "k".to_owned(), ..base };
    assert_eq!(refused(keyed).await.as_deref(), Some("AGENT_ONLY_FIELD"));
    assert!(world.broker.book().delegated.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_task_is_anchored_served_and_ended_like_an_opened_one() {
    let world = World::start().await;
    world.broker.book().providers.insert("s3".to_owned(), "aws".to_owned());
    let ceiling = vec![v1::ScopeRequest { scope: "s3".to_owned(), ..Default::default() }];
    world.broker.book().offers.insert("T9000".to_owned(), ceiling);
    let mut worker = world.task(&["--claim", "T9000"]);
    let asked = world.broker.book().claimed.last().cloned().expect("the broker was asked");
    assert_eq!(asked.subject_token, LAUNCHER);
    let anchor = asked.anchor.expect("the agent says what it observed");
    assert_eq!(anchor.kind(), v1::anchor::Kind::CgroupOwned);
    assert!(anchor.cgroup_id > 0 && anchor.pidfd_inode > 0);
    assert_eq!(worker.var("DAYFLY_TASK_ID"), "T9000");

    let host = worker.run("u=${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://}; printf %s ${u%%/*}");
    let bearer = worker.run("cat \"$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE\"");
    let answer = worker.http(&host, &format!("GET /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(world.broker.book().issued, [("T9000".to_owned(), BASH.to_owned())]);
    eventually("it is in the inventory", || {
        world
            .broker
            .book()
            .inventories
            .last()
            .is_some_and(|tasks| tasks.contains(&"T9000".to_owned()))
            .then_some(())
    })
    .await;
    worker.kill();
    let told = eventually("the end is told", || world.broker.book().told.pop()).await;
    assert_eq!((&*told.task_id, &*told.signal), ("T9000", "exit"));

    let words = world.refused(&["--claim", "T9000"]);
    assert!(words.contains("TASK_NOT_OPEN"), "the broker's own word: {words}");
    let left =
        || std::fs::read_dir(&world.cgroup).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    eventually("no cgroup is left", || (left() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_stands_in_a_task_claims_no_other() {
    let world = World::start().await;
    world.broker.book().offers.insert("T9000".to_owned(), Vec::new());
    let mut shell = world.task(&["--scope", "s3"]);
    let task = shell.var("DAYFLY_TASK_ID");
    let said = shell.run(&workload(&format!("--socket {} --claim T9000 -- true", world.socket().display())));
    assert!(said.contains("a process stands in one"), "{said}");
    assert!(world.broker.book().claimed.is_empty() && world.broker.book().offers.contains_key("T9000"));
    assert_eq!(shell.run("echo $DAYFLY_TASK_ID"), task, "and stays where it was");
}
