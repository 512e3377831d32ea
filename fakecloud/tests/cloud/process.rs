//! The binary, and what other processes say to it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

/// A process that does not outlive its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn ask(method: &str, url: &str, body: &str) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let answer = Client::builder(TokioExecutor::new()).build_http().request(request).await.unwrap();
    let status = answer.status().as_u16();
    (status, String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn another_process_seeds_it_troubles_it_and_reads_its_log() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dayfly-fakecloud"));
    let command = command.args(["--issuer", "http://127.0.0.1:1/federation"]).stdout(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let url = line.trim();
    let at = |path: &str| format!("{url}/_fakecloud/{path}");
    assert_eq!(ask("GET", &at("ready"), "").await, (200, "ready".to_owned()));

    let trust = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity",
        "Principal": {"Federated": "arn:aws:iam::111122223333:oidc-provider/127.0.0.1:1/federation"}}]});
    let seed = json!({"roles": [{"name": "r", "trust": trust, "policies": {"p": {"Statement": []}}}]});
    assert_eq!(ask("POST", &at("seed"), &seed.to_string()).await.0, 400, "no statement");
    let seed = json!({"roles": [{"name": "r", "trust": trust}], "buckets": {"b": {"k": "v"}}});
    assert_eq!(ask("POST", &at("seed"), &seed.to_string()).await.0, 200);
    assert_eq!(ask("GET", &at("policies"), "").await, (200, r#"{"r":{}}"#.to_owned()));

    let fault = json!({"action": "sts:*", "trouble": {"fail": 502}, "times": 1});
    assert_eq!(ask("POST", &at("faults"), &fault.to_string()).await.0, 200);
    let settings = json!({"propagation": {"everywhere_ms": 3_000}, "clock_offset_ms": -5});
    assert_eq!(ask("PUT", &at("settings"), &settings.to_string()).await.0, 200);
    let (_, kept) = ask("GET", &at("settings"), "").await;
    let kept: Value = serde_json::from_str(&kept).unwrap();
    assert_eq!(
        (&kept["propagation"]["everywhere_ms"], &kept["clock_offset_ms"]),
        (&json!(3_000), &json!(-5))
    );

    // `iss` is the issuer that does not answer.
    let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwOi8vMTI3LjAuMC4xOjEvZmVkZXJhdGlvbiJ9.c2ln";
    let query = format!(
        "{url}/?Version=2011-06-15&Action=AssumeRoleWithWebIdentity&RoleArn=arn:aws:iam::111122223333:role/r&RoleSessionName=s1&WebIdentityToken={token}"
    );
    assert_eq!(ask("POST", &query, "").await.0, 502);
    let (status, body) = ask("POST", &query, "").await;
    assert!(status == 400 && body.contains("IDPCommunicationError"), "{body}");
    let asked: Value = serde_json::from_str(&ask("GET", &at("asked"), "").await.1).unwrap();
    assert_eq!(
        (&asked[0]["trouble"], &asked[1]["refused"]),
        (&json!({"fail": 502}), &json!("IDPCommunicationError"))
    );
    assert_eq!(ask("GET", &at("complaints"), "").await, (200, "[]".to_owned()));
}
