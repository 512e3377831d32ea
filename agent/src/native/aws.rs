//! Container credentials, as every AWS SDK asks for them when `AWS_CONTAINER_CREDENTIALS_FULL_URI` is set.
//!
//! `GET` on one path, the bearer in `Authorization`; the answer is `AccessKeyId`, `SecretAccessKey`, `Token`, `Expiration`.
//! A refusal is 403, 429 or 503 with `code` and `message`, which the SDKs show. boto waits two seconds and asks three times.

use std::sync::Arc;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::body::Incoming;
use serde::Serialize;
use tracing::{debug, info};
use zeroize::Zeroizing;

use super::server::Answers;
use super::{Door, DoorError, Ends, guard, retry_after};
use crate::credentials::{Credential, Lease, Provider};
use crate::deliver::{DeliverError, Deliverer};
use crate::metrics::Metrics;

/// The one path. The task is known from the bearer, so it says nothing.
pub const PATH: &str = "/v1/aws/credentials";

/// The endpoint.
#[derive(Debug)]
pub struct Aws {
    /// `127.0.0.1:port`, as clients must name it.
    pub host: String,
    /// Who may come in.
    pub door: Door,
    /// Where credentials come from.
    pub deliverer: Arc<Deliverer>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum AwsError {
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    #[error("the process has exited")]
    Gone,
}

impl Answers for Aws {
    async fn answer(&self, request: Request<Incoming>, ends: Ends) -> Response<Full<Bytes>> {
        let outcome = self.lease_for(&request, ends).await;
        let (outcome, response) = match outcome {
            Ok(lease) => ("served", served(&lease)),
            Err(error) => {
                let what = match &error {
                    AwsError::Door(error) => error.metric(),
                    AwsError::Deliver(_) => "not_delivered",
                    AwsError::Gone => "gone",
                };
                info!(client = %ends.client, %error, "aws credentials refused");
                (what, refused(&error))
            }
        };
        Metrics::count_at(&self.metrics.native_requests, "aws", outcome);
        response
    }
}

impl Aws {
    async fn lease_for<B>(&self, request: &Request<B>, ends: Ends) -> Result<Arc<Lease>, AwsError> {
        let bearer = check(request, &self.host).map_err(DoorError::Header)?;
        let visitor = self.door.admit(Provider::Aws, bearer, ends).await?;
        let lease = self.deliverer.obtain(&visitor.task, Provider::Aws, &visitor.process).await?;
        // The connection may outlive its process, and must not speak for it.
        visitor.process.must_be_alive().map_err(|_| AwsError::Gone)?;
        debug!(task_id = %visitor.task.id, lease_id = %lease.id, "aws credentials served");
        Ok(lease)
    }
}

/// The bearer of a request that looks as an SDK's does.
fn check<'a, B>(request: &'a Request<B>, host: &str) -> Result<&'a [u8], &'static str> {
    if request.method() != Method::GET {
        return Err("only GET is answered here");
    }
    // A query, or the absolute form that proxies are sent, is nothing an SDK writes.
    if request.uri().path() != PATH || request.uri().query().is_some() || request.uri().authority().is_some()
    {
        return Err("nothing is served at this path");
    }
    guard::check(request.headers(), host)?;
    guard::authorization(request.headers())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Body<'a> {
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    /// RFC 3339.
    expiration: String,
}

fn served(lease: &Lease) -> Response<Full<Bytes>> {
    let Credential::Aws { access_key_id, secret_access_key, session_token } = &*lease.credential else {
        return json(StatusCode::INTERNAL_SERVER_ERROR, b"{}");
    };
    let expiration = jiff::Timestamp::try_from(lease.expires_at).unwrap_or_default();
    let body = Body {
        access_key_id,
        secret_access_key,
        token: session_token,
        expiration: expiration.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    };
    let body = Zeroizing::new(serde_json::to_vec(&body).expect("strings become JSON"));
    json(StatusCode::OK, &body)
}

fn refused(error: &AwsError) -> Response<Full<Bytes>> {
    let (status, code) = match error {
        AwsError::Deliver(error) if error.too_much().is_some() => {
            (StatusCode::TOO_MANY_REQUESTS, reason(error))
        }
        AwsError::Deliver(error) if error.is_transient() => (StatusCode::SERVICE_UNAVAILABLE, "NotReady"),
        AwsError::Deliver(error @ DeliverError::Broker(_)) => (StatusCode::FORBIDDEN, reason(error)),
        // Not a word on which of the checks it was to somebody who may be trying them.
        AwsError::Door(DoorError::UnknownBearer | DoorError::NotAMember(_)) => {
            return json(StatusCode::FORBIDDEN, br#"{"code":"AccessDenied","message":"not for you"}"#);
        }
        _ => (StatusCode::FORBIDDEN, "AccessDenied"),
    };
    let body = serde_json::json!({ "code": code, "message": error.to_string() });
    let mut response = json(status, body.to_string().as_bytes());
    if let AwsError::Deliver(error) = error
        && let Some(wait) = retry_after(error)
    {
        response.headers_mut().insert(RETRY_AFTER, wait);
    }
    response
}

/// The broker's own reason.
fn reason(error: &DeliverError) -> &str {
    match error {
        DeliverError::Broker(error) => error.reason.as_deref().unwrap_or("AccessDenied"),
        _ => "AccessDenied",
    }
}

fn json(status: StatusCode, body: &[u8]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use std::time::{Duration, UNIX_EPOCH};

    use http_body_util::BodyExt;

    use super::*;

    const HOST: &str = "127.0.0.1:4242";

    fn request(method: &str, uri: &str, host: &str) -> Request<()> {
        let builder = Request::builder().method(method).uri(uri).header("host", host);
        builder.header("authorization", "bearer").body(()).unwrap()
    }

    #[test]
    fn only_get_on_the_one_path_is_looked_at() {
        assert_eq!(check(&request("GET", PATH, HOST), HOST), Ok(&b"bearer"[..]));
        for (method, uri) in [
            ("POST", PATH),
            ("HEAD", PATH),
            ("OPTIONS", PATH),
            ("GET", "/"),
            ("GET", "/v1/aws/credentials/"),
            ("GET", "/v1/aws/credentials?x=1"),
            ("GET", "/v1/aws/../aws/credentials"),
            ("GET", "/latest/meta-data/iam/security-credentials/"),
            ("GET", "http://127.0.0.1:4242/v1/aws/credentials"),
        ] {
            assert!(check(&request(method, uri, HOST), HOST).is_err(), "{method} {uri}");
        }
        assert!(check(&request("GET", PATH, "127.0.0.1:4243"), HOST).is_err());
    }

    #[tokio::test]
    async fn the_answer_has_the_names_and_the_time_that_sdks_read() {
        let text = |s: &str| Zeroizing::new(s.to_owned());
        let credential = Credential::Aws {
            access_key_id: text("AKIA"),
            secret_access_key: text("s"),
            session_token: text("t"),
        };
        let expires_at = UNIX_EPOCH + Duration::from_millis(1_767_225_600_750);
        let credential = Arc::new(credential);
        let lease = Lease {
            id: "l".to_owned(),
            credential,
            expires_at,
            refresh_at: UNIX_EPOCH,
            rules_digest: String::new(),
        };
        let response = served(&lease);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({
            "AccessKeyId": "AKIA", "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-01-01T00:00:00Z"
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn what_passes_by_itself_is_503_and_the_rest_403() {
        let status = |error: AwsError| refused(&error).status();
        assert_eq!(status(DeliverError::NotYet.into()), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(DeliverError::Fenced.into()), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status(DeliverError::Ended.into()), StatusCode::FORBIDDEN);
        assert_eq!(status(DoorError::UnknownBearer.into()), StatusCode::FORBIDDEN);
        assert_eq!(status(AwsError::Gone), StatusCode::FORBIDDEN);
    }

    #[test]
    fn a_refusal_for_asking_too_often_is_429_and_says_how_long_to_wait() {
        let error = dayfly_client::CallError {
            code: tonic::Code::ResourceExhausted,
            reason: Some("RATE_LIMITED".to_owned()),
            message: "too often".to_owned(),
            next: None,
            request_id: None,
            retry_after: Some(Duration::from_millis(2_100)),
        };
        let response = refused(&DeliverError::Broker(error).into());
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[RETRY_AFTER], "3");
    }
}
