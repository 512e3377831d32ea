//! The Vault address: what passes, what does not, and what is noted.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Shell, World, eventually};

/// Answers as a Vault would that knows no policies.
struct FakeVault {
    address: String,
    /// Method, path and token of each request.
    asked: Arc<Mutex<Vec<(String, String, String)>>>,
    _server: AbortOnDropHandle<()>,
}

impl FakeVault {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let book = Arc::clone(&asked);
        let server = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let book = Arc::clone(&book);
                let service = service_fn(move |request| answer(request, Arc::clone(&book)));
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, asked, _server: AbortOnDropHandle::new(server) }
    }

    fn last(&self) -> (String, String, String) {
        self.asked.lock().unwrap().last().unwrap().clone()
    }
}

async fn answer(
    request: Request<Incoming>,
    book: Arc<Mutex<Vec<(String, String, String)>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = request.headers().get("x-vault-token");
    let token = header.map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default();
    let path = request.uri().path().to_owned();
    book.lock().unwrap().push((request.method().to_string(), path.clone(), token.clone()));
    let body = match &*path {
        "/v1/database/creds/ro" => {
            r#"{"lease_id":"database/creds/ro/abc","data":{"username":"u"}}"#.to_owned()
        }
        "/v1/leaky" => format!(r#"{{"data":{{"id":"{token}"}}}}"#),
        _ => r#"{"lease_id":"","data":{"data":{"answer":"forty-two"}}}"#.to_owned(),
    };
    Ok(Response::new(Full::new(Bytes::from(body))))
}

async fn world() -> (World, FakeVault, Shell) {
    let vault = FakeVault::start().await;
    let world = World::start().await;
    world.broker.book().vault_address = vault.address.clone();
    let shell = world.task(&["--scope", "kv"]);
    (world, vault, shell)
}

fn ask(shell: &mut Shell, host: &str, line: &str, token: &str) -> String {
    shell.http(host, &format!("{line} HTTP/1.1\nX-Vault-Request: true\nX-Vault-Token: {token}"))
}

fn host(shell: &mut Shell) -> String {
    shell.run("printf %s \"${VAULT_ADDR#http://}\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_reads_through_its_placeholder_and_nobody_else_does() {
    let (world, vault, mut member) = world().await;
    let (host, token) = (host(&mut member), member.var("VAULT_TOKEN"));
    let answer = ask(&mut member, &host, "GET /v1/secret/data/x", &token);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("forty-two"), "{answer}");
    let (method, path, shown) = vault.last();
    assert_eq!((&*method, &*path), ("GET", "/v1/secret/data/x"));
    assert!(shown.starts_with("hvs.real-L"), "{shown}");
    assert_ne!(shown, token);

    let before = vault.asked.lock().unwrap().len();
    let bare = member.http(&host, "GET /v1/secret/data/x HTTP/1.1");
    assert!(bare.starts_with("HTTP/1.1 403") && !bare.contains("forty-two"), "{bare}");
    let without_token = member.http(&host, "GET /v1/secret/data/x HTTP/1.1\nX-Vault-Request: true");
    assert!(without_token.starts_with("HTTP/1.1 403"), "{without_token}");
    let mut neighbour = world.task(&["--scope", "kv"]);
    for other in [&mut Shell::outside(), &mut neighbour] {
        let answer = ask(other, &host, "GET /v1/secret/data/x", &token);
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not for you"), "{answer}");
    }
    assert_eq!(vault.asked.lock().unwrap().len(), before, "Vault was not asked");

    member.kill();
    let answer = ask(&mut Shell::outside(), &host, "GET /v1/secret/data/x", &token);
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_gives_the_token_away() {
    let (_world, vault, mut member) = world().await;
    let (host, token) = (host(&mut member), member.var("VAULT_TOKEN"));
    for line in [
        "GET /v1/auth/token/lookup-self",
        "GET /v1//auth/token/lookup-self",
        "GET /v1/%61uth/token/lookup-self",
        "GET /v1/x/../auth/token/lookup-self",
        "POST /v1/auth/token/create",
        "PUT /v1/sys/wrapping/wrap",
        "PUT /v1/sys/leases/revoke",
        "GET /v1/secret/data/x?y HTTP/1.1\nX-Vault-Wrap-TTL: 60s\nX-Filler:",
        "GET /v1/secret/data/x HTTP/1.1\nX-Vault-Namespace: other\nX-Filler:",
    ] {
        let answer = ask(&mut member, &host, line, &token);
        assert!(answer.starts_with("HTTP/1.1 403"), "{line}: {answer}");
    }
    assert!(vault.asked.lock().unwrap().is_empty(), "none of it reached Vault");
    let answer = ask(&mut member, &host, "GET /v1/leaky", &token);
    assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("hvs.real"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dynamic_secret_is_reported_and_the_token_is_renewed_while_the_task_lives() {
    let (world, _vault, mut member) = world().await;
    {
        let mut book = world.broker.book();
        (book.life, book.refresh) = (Duration::from_secs(30), Duration::from_millis(200));
    }
    let (host, token) = (host(&mut member), member.var("VAULT_TOKEN"));
    let answer = ask(&mut member, &host, "GET /v1/database/creds/ro", &token);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = eventually("it is reported", || world.broker.book().seen.first().cloned()).await;
    assert_eq!(seen.target_lease_id, "database/creds/ro/abc");
    assert_eq!(seen.task_id, member.var("DAYFLY_TASK_ID"));
    eventually("renewals by the clock", || (world.broker.book().renewed.len() >= 3).then_some(())).await;
    assert!(world.broker.book().renewed.iter().all(|lease_id| *lease_id == seen.lease_id));
    member.kill();
    eventually("the end", || world.broker.book().told.pop()).await;
    let count = world.broker.book().renewed.len();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.broker.book().renewed.len(), count, "nothing is renewed for a task that is over");
}
