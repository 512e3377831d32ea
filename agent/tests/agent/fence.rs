//! An agent that the broker does not answer stops serving before the broker takes it for dead.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::world::{Shell, World, eventually};

fn aws(shell: &mut Shell) -> String {
    let uri = shell.var("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    let host = uri.strip_prefix("http://").unwrap().split('/').next().unwrap().to_owned();
    let bearer = shell.run("cat $AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    shell.http(&host, &format!("GET /v1/aws/credentials HTTP/1.1\nAuthorization: {bearer}"))
}

fn served(answer: &str) -> bool {
    answer.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread")]
async fn unanswered_heartbeats_stop_all_serving_in_time_and_an_answer_begins_it_anew() {
    let world = World::start().await;
    let mut shell = world.task(&["--scope", "s3", "--scope", "index"]);
    assert!(served(&aws(&mut shell)));
    let file = shell.var("DAYFLY_TOKEN_FILE");
    eventually("the token file", || std::path::Path::new(&file).exists().then_some(())).await;
    let issued = world.broker.book().issued.len();

    // The stream stands, the broker takes everything and says nothing.
    world.broker.book().answers = false;
    let begin = Instant::now();
    let refused = eventually("a refusal", || {
        let answer = aws(&mut shell);
        (!served(&answer)).then_some(answer)
    })
    .await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    // The broker's lapse here is three seconds, counted from what it heard; the request itself waits for one.
    assert!(begin.elapsed() < Duration::from_millis(4500), "{:?}", begin.elapsed());
    eventually("the file is taken away", || (!std::path::Path::new(&file).exists()).then_some(())).await;

    world.broker.book().answers = true;
    eventually("it serves again", || served(&aws(&mut shell)).then_some(())).await;
    eventually("the file is back", || std::path::Path::new(&file).exists().then_some(())).await;
    let book = world.broker.book();
    assert_eq!(book.issued.len(), issued + 2, "what was held was dropped, and both are issued anew");
    assert_eq!(book.epochs.last(), Some(&book.attached.to_string()), "in the name of the newest stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_stopped_for_longer_than_the_lapse_hands_out_nothing_of_before() {
    let world = World::start().await;
    let mut shell = world.task(&["--scope", "s3"]);
    let first = aws(&mut shell);
    assert!(served(&first));
    let agent = Pid::from_raw(i32::try_from(world.agent_pid()).unwrap());
    kill(agent, Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    kill(agent, Signal::SIGCONT).unwrap();
    let again = eventually("it serves again", || Some(aws(&mut shell)).filter(|answer| served(answer))).await;
    let key = |answer: &str| answer.split("AKIA-").nth(1).unwrap().chars().take(5).collect::<String>();
    assert_ne!(key(&again), key(&first), "it was asked for anew");
}
