//! What goes to Vault and what comes back.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use super::*;

const HOST: &str = "127.0.0.1:8200";
const SECRET: &str = "hvs.the-real-token";

fn request(method: &str, headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().method(method).uri("/v1/secret/data/x").header("host", HOST);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Full::new(Bytes::from_static(b"{}"))).unwrap()
}

#[test]
fn a_request_without_the_marks_of_a_vault_client_is_refused() {
    let good = [("x-vault-request", "true"), ("x-vault-token", "placeholder")];
    assert_eq!(check(&request("GET", &good), HOST), Ok(&b"placeholder"[..]));
    assert_eq!(check(&request("LIST", &good), HOST), Ok(&b"placeholder"[..]));
    let with = |name, value| [good[0], good[1], (name, value)];
    let table: [(&str, &[(&str, &str)]); 12] = [
        ("GET", &[]),
        ("GET", &good[..1]),
        ("GET", &good[1..]),
        ("GET", &[("x-vault-request", "false"), good[1]]),
        ("GET", &[("x-vault-request", "1"), good[1]]),
        ("GET", &with("x-vault-token", "another")),
        ("GET", &with("x-vault-wrap-ttl", "60s")),
        ("GET", &with("x-vault-wrap-format", "jwt")),
        ("GET", &with("x-vault-namespace", "team-a")),
        ("GET", &with("origin", "http://127.0.0.1")),
        ("CONNECT", &good),
        ("TRACE", &good),
    ];
    for (method, headers) in table {
        assert!(check(&request(method, headers), HOST).is_err(), "{method} {headers:?}");
    }
    assert!(check(&request("GET", &good), "127.0.0.1:8201").is_err());
}

#[tokio::test]
async fn the_token_is_swapped_and_nothing_unknown_is_sent_on() {
    let headers = [
        ("x-vault-request", "true"),
        ("x-vault-token", "placeholder"),
        ("authorization", "Bearer placeholder"),
        ("accept-encoding", "gzip"),
        ("cookie", "a=b"),
        ("content-type", "application/json"),
        ("x-vault-mfa", "x"),
        ("connection", "x-vault-token"),
    ];
    let uri: http::Uri = "http://127.0.0.1:1/v1/secret/data/x?version=2".parse().unwrap();
    let sent = onward(request("PUT", &headers), uri.clone(), SECRET).await.unwrap();
    assert_eq!((sent.method().as_str(), sent.uri()), ("PUT", &uri));
    let mut names: Vec<&str> = sent.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "x-vault-request", "x-vault-token"]);
    assert_eq!(sent.headers()["x-vault-token"], SECRET);
    assert!(!format!("{:?}", sent.headers()).contains(SECRET));
    assert_eq!(sent.into_body().collect().await.unwrap().to_bytes(), "{}");
}

fn answer(status: u16, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut builder = Response::builder().status(status);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Bytes::from(body.to_owned())).unwrap()
}

#[test]
fn an_answer_passes_with_the_headers_a_client_reads() {
    let given =
        [("content-type", "application/json"), ("x-vault-index", "i"), ("set-cookie", "x"), ("server", "v")];
    let passed = back(answer(404, &given, r#"{"errors":[]}"#), SECRET).unwrap();
    assert_eq!(passed.status(), 404);
    let mut names: Vec<&str> = passed.headers().keys().map(HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-type", "x-vault-index"]);
    assert_eq!(passed.body(), r#"{"errors":[]}"#);
}

#[test]
fn an_answer_with_the_token_in_it_is_held_back() {
    let body = format!(r#"{{"data":{{"id":"{SECRET}"}}}}"#);
    assert!(matches!(back(answer(200, &[], &body), SECRET), Err(VaultError::TokenInAnswer)));
    let header = [("x-vault-token", SECRET)];
    assert!(matches!(back(answer(200, &header, "{}"), SECRET), Err(VaultError::TokenInAnswer)));
    let encoded = [("content-encoding", "gzip")];
    assert!(matches!(back(answer(200, &encoded, ""), SECRET), Err(VaultError::Encoded)));
    let location = [("location", "https://active.internal:8200/v1/secret")];
    assert!(matches!(back(answer(307, &location, ""), SECRET), Err(VaultError::Redirect)));
}

#[tokio::test]
async fn a_refusal_has_vaults_shape() {
    let response = refused(&PathError::Forbidden("auth/").into());
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert!(body["errors"][0].as_str().unwrap().contains("auth/"), "{body}");
}
