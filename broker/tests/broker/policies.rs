//! Policies in force: refused with every fault, judging each request, swapped with the rules, there after a restart.

use std::time::SystemTime;

use dayfly_client::BrokerClient;
use dayfly_client::CallError;
use dayfly_proto::v1;

use crate::world::{TRAINER, World, reason, scope};

fn policy(rules: &str, tests: &str) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("      {line}\n")).collect::<String>();
    format!(
        "kind: Policy\nmetadata: {{name: short-lives}}\nspec:\n  scopes: [direct-read]\n  modules:\n    lives.rego: |\n      package dayfly.short_lives\n{}    lives_test.rego: |\n      package dayfly.short_lives_test\n{}",
        indent(rules),
        indent(tests)
    )
}

const ALLOWS: &str =
    "test_it if data.dayfly.short_lives.decision.allow with input as {\"claimed\": {\"ttl\": 1}}";

async fn open(client: &BrokerClient) -> v1::OpenTaskResponse {
    let ceiling = vec![scope("direct-read", &[])];
    let opened = client.credentials().open_task(v1::OpenTaskRequest { ceiling, ..Default::default() }).await;
    opened.expect("a direct binding stands").into_inner()
}

async fn issue(
    client: &BrokerClient,
    task: &v1::OpenTaskResponse,
) -> Result<v1::IssueCredentialResponse, tonic::Status> {
    let request = v1::IssueCredentialRequest {
        task_id: task.task_id.clone(),
        task_key: task.task_key.clone(),
        scope: Some(scope("direct-read", &[])),
        ..Default::default()
    };
    client.credentials().issue_credential(request).await.map(tonic::Response::into_inner)
}

fn seconds_left(issued: &v1::IssueCredentialResponse) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    issued.expires_at.expect("a credential ends").seconds - i64::try_from(now).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_wrong_is_refused_with_every_fault_and_its_line() {
    let world = World::new().await;
    let broken = policy("decision := {\"allow\": http.send({})}\n\nhours := 24 +", "");
    let untested = policy("decision := {\"allow\": time.now_ns() > 0}", "").replace("short", "brief");
    let nowhere = "kind: Binding\nmetadata: {name: lost}\nspec: {identities: [\"spiffe://example.org/train/*\"], scope: nowhere}\n";
    let yaml = [broken.as_str(), &untested, nowhere].join("---\n");
    let answer = world.try_apply(v1::ApplyRequest { yaml, ..Default::default() }).await.unwrap();
    let faults: Vec<(u32, &str, &str)> = answer
        .faults
        .iter()
        .map(|fault| (fault.document, fault.subject.as_str(), fault.path.as_str()))
        .collect();
    for expected in [
        (1, "Policy/short-lives", "spec.modules.lives.rego"),
        (2, "Policy/brief-lives", "spec.modules.lives.rego"),
        (2, "Policy/brief-lives", "spec.modules"),
        (3, "Binding/lost", "spec.scope"),
    ] {
        assert!(faults.contains(&expected), "{expected:?} in {faults:?}");
    }
    let marked =
        |fault: &v1::DocumentFault| fault.problem.contains("2 | decision :=") && fault.problem.contains('^');
    assert!(answer.faults.iter().any(marked), "{:?}", answer.faults);
    let stands = v1::ListDocumentsRequest { kind: "Policy".to_owned() };
    let mut world = world;
    let admin = world.connect(crate::world::ADMIN).await;
    assert!(admin.admin().list_documents(stands).await.unwrap().into_inner().documents.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_denies_narrows_and_is_swapped_with_the_rules() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    assert!(seconds_left(&issue(&client, &task).await.unwrap()) > 60);

    let denies = "decision := {\"allow\": count(reasons) == 0, \"reasons\": reasons}\n\nreasons contains \"ask for a minute at most\" if input.claimed.ttl > 60";
    world.apply(&policy(denies, ALLOWS)).await;
    let refused = issue(&client, &task).await.unwrap_err();
    let error = CallError::from(refused.clone());
    assert!(error.message.contains("ask for a minute at most"), "{error:?}");
    assert_eq!(reason(Err::<(), _>(refused)), "POLICY_DENIED");

    let narrows = "decision := {\"allow\": true, \"narrow\": {\"max_ttl\": 45}} if input.claimed.ttl > 0";
    world.apply(&policy(narrows, ALLOWS)).await;
    let left = seconds_left(&issue(&client, &task).await.unwrap());
    assert!((1..=45).contains(&left), "{left}");

    let fails = "decision := {\"allow\": true} if input.claimed.ttl < 60";
    world.apply(&policy(fails, ALLOWS)).await;
    assert_eq!(reason(issue(&client, &task).await), "POLICY_FAILED");

    world.restart().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    assert_eq!(reason(issue(&client, &task).await), "POLICY_FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_whose_own_test_fails_is_refused_and_so_is_all_that_came_with_it() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let failing = policy("decision := {\"allow\": false}", ALLOWS);
    let scope = "kind: Scope\nmetadata: {name: brought-along}\nspec: {stages: [training], target: {token: {audience: \"https://a.example.org\", scope: a, checked: offline}}}\n";
    let yaml = [failing.as_str(), scope].join("---\n");
    let answer = world.try_apply(v1::ApplyRequest { yaml, ..Default::default() }).await.unwrap();
    let told = |fault: &v1::DocumentFault| fault.problem.contains("the policy's own test test_it failed");
    assert!(answer.faults.iter().any(told), "{:?}", answer.faults);
    let admin = world.connect(crate::world::ADMIN).await;
    let scopes = v1::ListDocumentsRequest { kind: "Scope".to_owned() };
    let scopes = admin.admin().list_documents(scopes).await.unwrap().into_inner().documents;
    assert!(!format!("{scopes:?}").contains("brought-along"), "part of a refused apply stands");
    let task = open(&client).await;
    issue(&client, &task).await.expect("the refused policy is not in force");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_loops_denies_and_holds_nobody_up() {
    let mut world = World::new().await;
    let (client, other) = (world.connect(TRAINER).await, world.connect(TRAINER).await);
    let some: String = (0..12).map(|n| format!("\tsome d{n} in digits\n")).collect();
    let loops = format!(
        "digits := [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n\nlong if {{\n\tinput.claimed.ttl > 1\n{some}\td0 + d11 == 19\n\td1 > 10\n}}\n\ndefault decision := {{\"allow\": true}}\n\ndecision := {{\"allow\": false}} if long"
    );
    world.apply(&policy(&loops, ALLOWS)).await;
    let (task, unbothered) = (open(&client).await, open(&other).await);
    let begun = std::time::Instant::now();
    let looping = async {
        for _ in 0..8 {
            assert_eq!(reason(issue(&client, &task).await), "POLICY_FAILED");
        }
    };
    let ending = async {
        let request = v1::EndTaskRequest {
            task_id: unbothered.task_id.clone(),
            task_key: unbothered.task_key.clone(),
            ..Default::default()
        };
        other.credentials().end_task(request).await.expect("ending waits for no policy");
        begun.elapsed()
    };
    let ((), ended) = tokio::join!(looping, ending);
    assert!(ended < std::time::Duration::from_secs(2), "{ended:?}");
    assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_is_decided_under_the_policies_of_now() {
    let mut world = World::new().await;
    let client = world.connect(TRAINER).await;
    let task = open(&client).await;
    let renew = async |lease: &str| {
        let request = v1::RenewLeaseRequest {
            task_id: task.task_id.clone(),
            task_key: task.task_key.clone(),
            lease_id: lease.to_owned(),
            ..Default::default()
        };
        client.credentials().renew_lease(request).await.map(tonic::Response::into_inner)
    };
    let admin = world.connect(crate::world::ADMIN).await;
    let state = async |lease: &str| {
        let request = v1::GetLeaseRequest { lease_id: lease.to_owned() };
        admin.admin().get_lease(request).await.unwrap().into_inner().lease.unwrap().state
    };
    let issued = issue(&client, &task).await.unwrap();
    assert!(seconds_left(&issued) > 60);

    let narrows =
        "decision := {\"allow\": true, \"narrow\": {\"max_ttl\": 45, \"tags\": {\"team\": \"data\"}}}";
    world.apply(&policy(narrows, ALLOWS)).await;
    let renewed = renew(&issued.lease_id).await.unwrap();
    assert_ne!(renewed.lease_id, issued.lease_id, "what is out carries no tag");
    let Some(v1::renew_lease_response::Credential::Token(token)) = &renewed.credential else {
        panic!("a token was asked for: {renewed:?}");
    };
    let said = crate::exchange_site::claims(&token.access_token);
    let lives = said["exp"].as_u64().unwrap() - said["iat"].as_u64().unwrap();
    assert!((1..=45).contains(&lives), "{said}");
    assert_eq!(said["dayfly"]["tags"]["team"], "data", "{said}");
    assert_eq!(
        (state(&issued.lease_id).await.as_str(), state(&renewed.lease_id).await.as_str()),
        ("revoking", "active")
    );

    world.apply(&policy("decision := {\"allow\": input.claimed.ttl < 2}", ALLOWS)).await;
    assert_eq!(reason(renew(&renewed.lease_id).await), "POLICY_DENIED");
    assert_eq!(state(&renewed.lease_id).await, "revoking", "what may not be renewed is taken back");
    assert_eq!(reason(renew(&renewed.lease_id).await), "LEASE_NOT_YOURS");
}
