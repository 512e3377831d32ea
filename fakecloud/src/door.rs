//! The one door: a request is told apart, met by trouble, authenticated, done, and written down.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::Method;
use http::request::Parts;

use crate::account::{Account, Place, Session};
use crate::answer::{Refusal, Service};
use crate::cloud::{Cloud, Note, lock, wall_ms};
use crate::params::Params;
use crate::sigv4::Claim;
use crate::trouble::Trouble;
use crate::{iam, s3, sts, wire};

/// Longest request.
const LONGEST_BODY: usize = 8 * 1024 * 1024;
/// Where an unsigned request is counted to.
const HOME: &str = "us-east-1";

/// Marks an answer that must not be given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut;

/// A request, told apart.
enum Call {
    Query(Service, String, Params),
    Object(s3::Call),
}

impl Call {
    fn service(&self) -> Service {
        match self {
            Call::Query(service, ..) => *service,
            Call::Object(_) => Service::S3,
        }
    }

    fn action(&self) -> String {
        match self {
            Call::Query(service, action, _) => format!("{}:{action}", service.name()),
            Call::Object(call) => format!("s3:{}", call.action),
        }
    }
}

/// Whatever is asked of the cloud itself.
pub(crate) async fn serve(State(cloud): State<Arc<Cloud>>, request: Request) -> Response {
    let from_ms = wall_ms();
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LONGEST_BODY).await else { return cut() };
    let call = match tell_apart(&parts, &body) {
        Ok(call) => call,
        Err((service, refusal)) => {
            cloud.done("?".to_owned(), Note::default(), from_ms, Some(&refusal), None);
            return service.refuse(&refusal);
        }
    };
    let trouble = lock(&cloud.troubles).meet(&call.action(), from_ms);
    let mut note = Note { region: HOME.to_owned(), resource: "*".to_owned(), who: None };
    let result = match trouble {
        Some(Trouble::Throttle) => Err(call.service().throttled()),
        Some(Trouble::Fail(status)) => Err(Refusal::new(status, "InternalFailure", "as the test wants it")),
        Some(Trouble::LoseRequest) => {
            cloud.done(call.action(), note, from_ms, None, trouble);
            return cut();
        }
        Some(Trouble::Hold(ms)) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            act(&cloud, &parts, &body, &call, &mut note).await
        }
        Some(Trouble::LoseAnswer | Trouble::Slow(_)) | None => {
            act(&cloud, &parts, &body, &call, &mut note).await
        }
    };
    if let Some(Trouble::Slow(ms)) = trouble {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    cloud.done(call.action(), note, from_ms, result.as_ref().err(), trouble);
    match (trouble, result) {
        (Some(Trouble::LoseAnswer), _) => cut(),
        (_, Ok(answer)) => answer,
        (_, Err(refusal)) => call.service().refuse(&refusal),
    }
}

/// An answer that the server takes as a word to cut the connection.
fn cut() -> Response {
    let mut response = Response::new(Body::empty());
    response.extensions_mut().insert(Cut);
    response
}

fn tell_apart(parts: &Parts, body: &[u8]) -> Result<Call, (Service, Refusal)> {
    // A `GET` of the root without a query is S3's list of buckets, as S3 has it.
    let is_root = parts.method == Method::GET && parts.uri.path() == "/" && parts.uri.query().is_none();
    if is_root || parts.uri.path() == "/s3" || parts.uri.path().starts_with("/s3/") {
        return s3::Call::read(parts).map(Call::Object).map_err(|refusal| (Service::S3, refusal));
    }
    let unfit = || (Service::Sts, Refusal::new(400, "InvalidQueryParameter", "the query cannot be read"));
    let mut params = wire::pairs(parts.uri.query().unwrap_or_default()).ok_or_else(unfit)?;
    let text = std::str::from_utf8(body).ok().and_then(wire::form).ok_or_else(unfit)?;
    params.extend(text);
    let params = Params(params);
    let service = match params.get("Version") {
        Some("2011-06-15") => Service::Sts,
        Some("2010-05-08") => Service::Iam,
        _ => {
            return Err((Service::Sts, Refusal::not_known(format!("{} {}", parts.method, parts.uri.path()))));
        }
    };
    let action = params.get("Action").unwrap_or_default().to_owned();
    Ok(Call::Query(service, action, params))
}

async fn act(
    cloud: &Cloud,
    parts: &Parts,
    body: &[u8],
    call: &Call,
    note: &mut Note,
) -> Result<Response, Refusal> {
    let now_ms = cloud.now_ms();
    if let Call::Query(Service::Sts, action, params) = call
        && action == "AssumeRoleWithWebIdentity"
    {
        note.resource = params.get("RoleArn").unwrap_or_default().to_owned();
        return sts::assume_role_with_web_identity(cloud, params, Place { region: HOME, now_ms }).await;
    }
    let claim = Claim::read(parts, call.service())?;
    note.region.clone_from(&claim.region);
    let settings = cloud.settings();
    let mut account = cloud.account();
    let session = authenticate(&account, &claim, parts, body, call.service(), now_ms)?;
    note.who = Some(session.arn());
    let place = Place { region: &claim.region, now_ms };
    match call {
        Call::Object(call) => {
            note.resource = call.resource();
            call.answer(&mut account, &session, place, body)
        }
        Call::Query(Service::Iam, action, params) => {
            note.resource = iam::resource(&account, params);
            iam::signed(&mut account, &session, place, &settings.propagation, action, params)
        }
        Call::Query(Service::Sts | Service::S3, action, params) => {
            sts::signed(&account, &session, place, action, params)
        }
    }
}

/// The session that signed a request, if it still lasts.
fn authenticate(
    account: &Account,
    claim: &Claim,
    parts: &Parts,
    body: &[u8],
    service: Service,
    now_ms: i64,
) -> Result<Session, Refusal> {
    let of = |s3: (u16, &'static str), other: (u16, &'static str), what: &str| match service {
        Service::S3 => Refusal::new(s3.0, s3.1, what),
        Service::Sts | Service::Iam => Refusal::new(other.0, other.1, what),
    };
    let invalid = "The security token included in the request is invalid.";
    let unknown = || of((403, "InvalidAccessKeyId"), (403, "InvalidClientTokenId"), invalid);
    let session = account.sessions.get(&claim.access_key_id).ok_or_else(unknown)?;
    claim.check(parts, body, service, &session.secret, now_ms)?;
    if claim.token.as_deref() != Some(session.token.as_str()) {
        return Err(of((400, "InvalidToken"), (403, "InvalidClientTokenId"), invalid));
    }
    if session.expires_at <= now_ms.div_euclid(1_000) {
        let what = "The security token included in the request is expired";
        return Err(of((400, "ExpiredToken"), (403, "ExpiredToken"), what));
    }
    Ok(session.clone())
}
