//! Who may open a task, in whose name, and what a caller cannot say of itself.

use dayfly_client::v1::{self, OpenTaskRequest, ScopeRequest};
use dayfly_client::{CallError, SpiffeId};
use dayfly_devspiffe::Entry;
use tonic::Code;

use crate::world::{BASH, LAUNCHER, Shell, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_opened_in_the_callers_own_name_and_in_the_task_it_stands_in() {
    let world = World::start().await;
    let mut outer = world.task(&["--scope", "s3"]);
    let opened = world.broker.book().opened.last().unwrap().clone();
    assert_eq!(opened.subject_token, LAUNCHER, "the broker saw this subject");
    assert_eq!(opened.parent_task_id, "");
    let anchor = opened.anchor.unwrap();
    assert_eq!(anchor.kind(), v1::anchor::Kind::CgroupOwned);
    assert_eq!(anchor.attested_by, "pidfd");
    assert!(anchor.cgroup_id > 0 && anchor.pidfd_inode > 0 && anchor.start_time > 0);

    let task = outer.var("DAYFLY_TASK_ID");
    let example =
        std::path::Path::new(env!("CARGO_BIN_EXE_dayfly-agent")).with_file_name("examples/workload");
    let inner = outer.run(&format!(
        "{} --socket \"$DAYFLY_AGENT_SOCKET\" -- bash -c 'echo $DAYFLY_TASK_ID; sleep 60 &'",
        example.display()
    ));
    assert_ne!(inner, task);
    let opened = world.broker.book().opened.last().unwrap().clone();
    assert_eq!(opened.parent_task_id, task, "the kernel says in which task it was opened");
    assert!(outer.is_alive(), "the end of the inner task is not that of the outer");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_an_agent_may_say_is_refused() {
    let world = World::start().await;
    let agent = world.client().await;
    let requests = [
        OpenTaskRequest { subject_token: "eyJ".to_owned(), ..Default::default() },
        OpenTaskRequest { parent_task_id: "T0001".to_owned(), ..Default::default() },
        OpenTaskRequest { anchor: Some(v1::Anchor::default()), ..Default::default() },
    ];
    for request in requests {
        let refused = CallError::from(agent.credentials().open_task(request).await.unwrap_err());
        assert_eq!(refused.reason.as_deref(), Some("AGENT_ONLY_FIELD"), "{refused}");
        assert!(refused.request_id.is_some() && refused.next.is_some());
    }
    for request in [
        v1::AuthorizeRequest { subject_token: "eyJ".to_owned(), ..Default::default() },
        v1::AuthorizeRequest { task_key: "k".to_owned(), ..Default::default() },
    ] {
        let refused = CallError::from(agent.credentials().authorize(request).await.unwrap_err());
        assert_eq!(refused.reason.as_deref(), Some("AGENT_ONLY_FIELD"), "{refused}");
    }
    let keyed = v1::EndTaskRequest { task_key: "k".to_owned(), ..Default::default() };
    let refused = CallError::from(agent.credentials().end_task(keyed).await.unwrap_err());
    assert_eq!(refused.reason.as_deref(), Some("AGENT_ONLY_FIELD"));
    assert!(world.broker.book().opened.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_of_a_mebibyte_is_refused_before_it_is_parsed() {
    let world = World::start().await;
    // A client that knows no limit of its own.
    let channel = world.client().await.channel();
    let mut agent = v1::credential_service_client::CredentialServiceClient::new(channel);
    for (bytes, code) in [(1 << 20, Code::OutOfRange), (32 << 10, Code::InvalidArgument)] {
        let parameters = [("dataset".to_owned(), "a".repeat(bytes))].into();
        let ceiling = vec![ScopeRequest { scope: "s3".to_owned(), parameters }];
        // Were the message read, it would be refused for this field.
        let request = OpenTaskRequest { ceiling, subject_token: "eyJ".to_owned(), ..Default::default() };
        let refused = agent.open_task(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{bytes}: {refused}");
    }
    assert!(world.broker.book().opened.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outsider_learns_nothing_of_a_task_and_cannot_end_it() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "index"]);
    let task_id = member.var("DAYFLY_TASK_ID");
    let agent = world.client().await;
    for task_id in [task_id.clone(), "T9999".to_owned()] {
        let end = v1::EndTaskRequest { task_id: task_id.clone(), ..Default::default() };
        let end = CallError::from(agent.credentials().end_task(end).await.unwrap_err());
        let scope = Some(ScopeRequest { scope: "index".to_owned(), ..Default::default() });
        let issue = v1::IssueCredentialRequest { task_id: task_id.clone(), scope, ..Default::default() };
        let issue = CallError::from(agent.credentials().issue_credential(issue).await.unwrap_err());
        let check = v1::AuthorizeRequest { task_id: task_id.clone(), ..Default::default() };
        let check = CallError::from(agent.credentials().authorize(check).await.unwrap_err());
        let watch = v1::WatchTaskRequest { task_id, ..Default::default() };
        let watch = CallError::from(agent.credentials().watch_task(watch).await.unwrap_err());
        for refused in [end, issue, check, watch] {
            assert_eq!(refused.reason.as_deref(), Some("UNKNOWN_TASK"), "{refused}");
        }
    }
    assert!(member.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_asks_about_an_artifact_in_its_own_name_and_each_time_anew() {
    let world = World::start().await;
    for number in ["D0002", "D0004"] {
        let said = world.says(&["--end", "--check", "load-model=models/llama"]);
        assert!(said.starts_with(&format!("authorized: {number} a.receipt\n")), "{said}");
    }
    let asked = world.broker.book().authorized.clone();
    let by = |task: &str| [task, LAUNCHER, "load-model", "spiffe://prod.example/guard"].map(str::to_owned);
    assert_eq!(asked, [by("T0001"), by("T0003")]);
    assert!(!world.log().contains("a.receipt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_svids_are_an_error_that_lists_them_and_none_says_who_asked() {
    let world = World::start().await;
    let launcher =
        std::path::Path::new(env!("CARGO_BIN_EXE_dayfly-agent")).with_file_name("examples/workload");
    let second = "spiffe://prod.example/admin/launcher";
    world.spiffe.add_entry(Entry::new(second).unwrap().path(&launcher)).unwrap();
    let words = world.refused(&["--scope", "s3"]);
    assert!(
        words.contains("AMBIGUOUS_IDENTITY") && words.contains(second) && words.contains(LAUNCHER),
        "{words}"
    );

    for id in [second, LAUNCHER] {
        world.spiffe.withdraw(&SpiffeId::new(id).unwrap());
    }
    let words = world.refused(&["--scope", "s3"]);
    let uid = format!("uid {}", nix::unistd::geteuid());
    assert!(words.contains("NO_IDENTITY") && words.contains(&uid), "{words}");
    assert!(words.contains(&launcher.display().to_string()), "{words}");
    assert!(world.broker.book().opened.is_empty(), "the broker was not asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_task_leaves_its_caller_where_it_was() {
    let world = World::start().await;
    world.broker.book().denies = true;
    let words = world.refused(&["--scope", "s3"]);
    assert!(
        words.contains("NOT_COVERED") && words.contains("ask an admin"),
        "the broker's own words: {words}"
    );
    // The launcher is gone by now; what matters is that no cgroup holds anything.
    let left = || {
        std::fs::read_dir(&world.cgroup)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count()
    };
    eventually("the cgroup is removed", || (left() == 0).then_some(())).await;

    world.broker.book().denies = false;
    let words = world.refused(&["--scope", "s3", "--scope", "s3-too"]);
    assert!(words.contains("TWO_SCOPES_ONE_SLOT"), "{words}");
    let told = eventually("the end is told", || world.broker.book().told.pop()).await;
    assert_eq!(told.signal, "explicit");
    eventually("the cgroup is removed", || (left() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cgroup_the_process_is_the_anchor() {
    let world = World::start_with("anchor = \"process\"\n").await;
    let mut shell = world.task(&["--scope", "s3"]);
    let opened = world.broker.book().opened.last().unwrap().clone();
    assert_eq!(opened.anchor.unwrap().kind(), v1::anchor::Kind::Process);
    let host = shell.run("u=${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://}; printf %s ${u%%/*}");
    let bearer = shell.run("cat \"$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE\"");
    let request = format!("GET /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}");
    let answer = shell.http(&host, &request);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(world.broker.book().issued[0].1, BASH, "the program's identity, not the launcher's");
    let answer = Shell::outside().http(&host, &request);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    shell.kill();
    let told = eventually("the end is told", || world.broker.book().told.pop()).await;
    assert_eq!(told.signal, "exit");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_root_everything_works_but_the_cgroup() {
    let world = World::start_as(Some(12_345), "").await;
    assert!(world.log().contains("tasks hang on processes"), "it says so");
    let mut shell = world.task(&["--scope", "s3", "--scope", "index"]);
    assert_eq!(shell.run("id -u"), "12345");
    let opened = world.broker.book().opened.last().unwrap().clone();
    assert_eq!(opened.anchor.unwrap().kind(), v1::anchor::Kind::Process);
    let host = shell.run("u=${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://}; printf %s ${u%%/*}");
    let bearer = shell.run("cat \"$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE\"");
    let answer = shell.http(&host, &format!("GET /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let file = shell.var("DAYFLY_TOKEN_FILE");
    eventually("a token", || std::fs::read_to_string(&file).ok()).await;
    shell.kill();
    let told = eventually("the end is told", || world.broker.book().told.pop()).await;
    assert_eq!(told.signal, "exit");
}
