//! AWS credentials and token files: who is served, and when no longer.

use std::time::Duration;

use dayfly_client::v1::{self, attach_response::Message as Down};

use crate::world::{BASH, Shell, World, eventually};

const ASK: &str = "GET /v1/aws/credentials HTTP/1.1";

fn endpoint(shell: &mut Shell) -> (String, String) {
    let host = shell.run("u=${AWS_CONTAINER_CREDENTIALS_FULL_URI#http://}; printf %s ${u%%/*}");
    let bearer = shell.run("cat \"$AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE\"");
    (host, bearer)
}

fn body(answer: &str) -> serde_json::Value {
    let body = answer.lines().last().unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_served_from_one_lease_and_an_outsider_with_the_right_token_is_not() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut member);
    let ask = format!("{ASK}\nAuthorization: {bearer}");
    let answer = member.http(&host, &ask);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let first = body(&answer);
    assert!(first["AccessKeyId"].as_str().unwrap().starts_with("AKIA-"));
    assert_eq!((&first["SecretAccessKey"], &first["Token"]), (&"aws-secret".into(), &"aws-session".into()));
    assert_eq!(body(&member.http(&host, &ask)), first, "one lease for both");
    assert_eq!(world.broker.book().issued, [(member.var("DAYFLY_TASK_ID"), BASH.to_owned())]);

    // Root outside the task, another task, and a member that makes one thing wrong.
    let mut outsider = Shell::outside();
    let mut neighbour = world.task(&["--scope", "s3"]);
    for other in [&mut outsider, &mut neighbour] {
        let answer = other.http(&host, &ask);
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        assert!(!answer.contains("AKIA"), "{answer}");
        assert_eq!(body(&answer)["code"], "AccessDenied");
    }
    for wrong in [
        ASK.to_owned(),
        format!("{ASK}\nAuthorization: {bearer}x"),
        format!("{ASK}\nAuthorization: Bearer {bearer}"),
        format!("{ask}\nOrigin: http://127.0.0.1"),
        format!("{ask}\nX-Forwarded-For: 10.0.0.1"),
        format!("{ask}\nVia: 1.1 p"),
        format!("{ask}\nHost: other.example"),
        format!("POST /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}"),
        format!("GET /v1/aws/credentials/x HTTP/1.1\nAuthorization: {bearer}"),
    ] {
        let answer = member.http(&host, &wrong);
        assert!(answer.starts_with("HTTP/1.1 403"), "{wrong}: {answer}");
    }
    assert!(world.log().contains("aws credentials refused"));
    assert!(!world.log().contains(&bearer) && !world.log().contains("aws-secret"), "no secret is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_about_the_program_that_asks_and_its_denial_is_the_brokers_word() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut member);
    // `curl` is another program, and SPIRE knows nobody like it.
    let line = format!(
        "curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: {bearer}' http://{host}/v1/aws/credentials"
    );
    assert_eq!(member.run(&line), "403");
    assert!(world.broker.book().issued.is_empty());

    world.broker.book().denies = true;
    let answer = member.http(&host, &format!("{ASK}\nAuthorization: {bearer}"));
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(body(&answer)["code"], "NOT_COVERED");
}

/// Asks so many times at once, and gives back the first lines of the answers.
fn ask_at_once(member: &mut Shell, host: &str, bearer: &str, times: u32) -> Vec<String> {
    let (name, port) = host.split_once(':').unwrap();
    let line = format!(
        "for i in {{1..{times}}}; do (exec 3<>/dev/tcp/{name}/{port}; \
         printf '{ASK}\\r\\nHost: {host}\\r\\nAuthorization: {bearer}\\r\\nConnection: close\\r\\n\\r\\n' >&3; \
         read -r first <&3; echo \"$first\") & done; wait"
    );
    member.run(&line).lines().filter(|line| line.starts_with("HTTP/")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_ask_at_once_wait_for_one_request_and_are_told_alike() {
    // Fewer than the agent attests at once for one user.
    const MANY: u32 = 12;
    let world = World::start().await;
    let mut member = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut member);
    world.broker.book().slow = Duration::from_secs(1);
    world.broker.book().denies = true;
    let answers = ask_at_once(&mut member, &host, &bearer, MANY);
    assert_eq!(answers.len(), MANY as usize);
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 403")), "{answers:?}");
    assert_eq!(world.broker.book().keys.len(), 1, "one request for all");
    world.broker.book().denies = false;
    let answers = ask_at_once(&mut member, &host, &bearer, MANY);
    assert_eq!(answers.len(), MANY as usize);
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{answers:?}");
    let mut neighbour = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut neighbour);
    assert!(neighbour.http(&host, &format!("{ASK}\nAuthorization: {bearer}")).starts_with("HTTP/1.1 200"));
    let book = world.broker.book();
    assert_eq!(book.issued.len(), 2, "another task shares nothing");
    let keys: std::collections::HashSet<&String> = book.keys.iter().collect();
    assert_eq!(
        (book.keys.len(), keys.len()),
        (3, 3),
        "each credential has a key of its own: {:?}",
        book.keys
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_again_after_a_lost_answer_has_the_same_key_until_there_is_one() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut member);
    let ask = format!("{ASK}\nAuthorization: {bearer}");
    world.broker.book().loses = true;
    for _ in 0..2 {
        let answer = member.http(&host, &ask);
        assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    world.broker.book().loses = false;
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"));
    let book = world.broker.book();
    assert!(!book.keys[0].is_empty());
    assert_eq!(book.keys, [&book.keys[0]; 3].map(String::clone), "the broker takes back what was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aws_lease_in_use_is_renewed_and_a_denied_renewal_takes_it_away() {
    let world = World::start().await;
    {
        let mut book = world.broker.book();
        (book.life, book.refresh) = (Duration::from_secs(60), Duration::ZERO);
    }
    let mut member = world.task(&["--scope", "s3"]);
    let (host, bearer) = endpoint(&mut member);
    let ask = format!("{ASK}\nAuthorization: {bearer}");
    member.http(&host, &ask);
    eventually("a renewal", || world.broker.book().renewed.pop()).await;
    world.broker.book().denies = true;
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"), "what is held is still good");
    let mut gone = false;
    for _ in 0..50 {
        gone = gone || member.http(&host, &ask).starts_with("HTTP/1.1 403");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(gone, "the denial ended it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_file_is_for_the_program_alone_and_follows_its_lease() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "index"]);
    let file = member.var("DAYFLY_TOKEN_FILE");
    let read = || std::fs::read_to_string(&file).ok();
    let first = eventually("a token", read).await;
    assert!(first.starts_with("access-L"), "{first}");
    assert_eq!(world.broker.book().issued[0].1, BASH, "issued after exec, to the program");
    assert_eq!(member.run(&format!("stat -c '%a %u' {file}")), format!("400 {}", nix::unistd::geteuid()));

    let lease_id = first.trim_start_matches("access-").to_owned();
    // The broker may leave out whose lease it is.
    let task_id = String::new();
    world.broker.order(Down::LeaseRevoked(v1::LeaseRevokedNotice { task_id, lease_id })).await;
    eventually("the old token is taken away", || (read().as_ref() != Some(&first)).then_some(())).await;
    let second = eventually("another token", read).await;
    assert_ne!(second, first);

    member.kill();
    eventually("the file is gone", || {
        (!std::path::Path::new(&file).parent().unwrap().exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_stops_all_serving_and_a_heard_one_resumes_it() {
    let mut world = World::start().await;
    let mut member = world.task(&["--scope", "s3", "--scope", "index"]);
    let (host, bearer) = endpoint(&mut member);
    let ask = format!("{ASK}\nAuthorization: {bearer}");
    let file = member.var("DAYFLY_TOKEN_FILE");
    eventually("a token", || std::fs::read_to_string(&file).ok()).await;
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"));

    world.crash_broker();
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"), "a short outage is no silence");
    eventually("the token is taken away", || std::fs::metadata(&file).err()).await;
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 503"));

    world.revive_broker();
    world.until_attached(2).await;
    eventually("a token again", || std::fs::read_to_string(&file).ok()).await;
    assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"));
    assert_eq!(world.broker.book().issued.len(), 4, "nothing was kept over the silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_of_another_user_reads_its_files_and_its_neighbour_does_not() {
    let world = World::start().await;
    let (one, two) = (Some(12_345), Some(12_346));
    let mut member = world.task_as(one, &["--scope", "s3", "--scope", "index"]);
    let (host, bearer) = endpoint(&mut member);
    let answer = member.http(&host, &format!("{ASK}\nAuthorization: {bearer}"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let file = member.var("DAYFLY_TOKEN_FILE");
    eventually("a token", || std::fs::read_to_string(&file).ok()).await;
    assert!(member.run(&format!("cat {file}")).starts_with("access-"));
    assert_eq!(member.run(&format!("rm -f {file} 2>/dev/null || echo kept")), "kept");

    let mut neighbour = world.task_as(two, &["--scope", "s3"]);
    let folder = std::path::Path::new(&file).parent().unwrap().display().to_string();
    for line in [
        format!("cat {file}"),
        format!("ls {folder}"),
        format!("ls {folder}/.."),
        format!("touch {folder}/x"),
    ] {
        assert_eq!(neighbour.run(&format!("{line} 2>/dev/null || echo refused")), "refused", "{line}");
    }
    // Without root nobody leaves its cgroup, nor enters another's.
    let line = format!("echo $$ > {}/cgroup.procs", world.cgroup.display());
    assert_eq!(neighbour.run(&format!("{{ {line}; }} 2>/dev/null || echo refused")), "refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_under_other_rules_is_decided_anew_before_it_is_served() {
    let world = World::start().await;
    let mut member = world.task(&["--scope", "s3", "--scope", "index"]);
    let (host, bearer) = endpoint(&mut member);
    let ask = format!("{ASK}\nAuthorization: {bearer}");
    let file = member.var("DAYFLY_TOKEN_FILE");
    eventually("a token", || std::fs::read_to_string(&file).ok()).await;
    member.http(&host, &ask);
    member.http(&host, &ask);
    assert!(world.broker.book().renewed.is_empty(), "under the same rules the cache serves");

    let change = async |rules: &str, scopes: &[&str]| {
        world.broker.book().rules = rules.to_owned();
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        world
            .broker
            .order(Down::RulesChanged(v1::RulesChanged { rules_digest: rules.to_owned(), scopes }))
            .await;
    };
    change("r1b", &["kv"]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    member.http(&host, &ask);
    assert!(world.broker.book().renewed.is_empty(), "that was another scope's");
    change("r2", &["s3", "index"]).await;
    eventually("both leases are decided anew", || {
        assert!(member.http(&host, &ask).starts_with("HTTP/1.1 200"));
        (world.broker.book().renewed.len() == 2).then_some(())
    })
    .await;
    member.http(&host, &ask);
    assert_eq!(world.broker.book().renewed.len(), 2, "once");
    assert!(std::fs::metadata(&file).is_ok());

    world.broker.book().denies = true;
    change("r3", &["s3", "index"]).await;
    eventually("the token is taken away", || std::fs::metadata(&file).err()).await;
    let answer = member.http(&host, &ask);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(body(&answer)["code"], "NOT_COVERED");
}
