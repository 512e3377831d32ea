//! Calls to IAM: a role's deny document is read and written whole (IAM API Reference, version 2010-05-08).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_sts::config::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::super::config::{AwsConfig, AwsConfigError, RevokerConfig};
use super::super::errors::CallError;
use super::super::minter::Minter;
use super::login::Logins;
use super::role::RoleArn;

/// Name of the inline policy that is ours.
pub(super) const POLICY_NAME: &str = "dayfly-deny";

/// The longest answer that is read, in bytes. A document has 10,240 characters, each at most three bytes here.
const LONGEST_ANSWER: usize = 256 * 1024;

/// Asks IAM as the revoker.
pub(super) struct Iam {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: String,
    region: &'static str,
    timeout: Duration,
    logins: Logins,
}

impl Iam {
    pub(super) fn new(
        config: &AwsConfig,
        revoker: &RevokerConfig,
        minter: Arc<Minter>,
    ) -> Result<Self, AwsConfigError> {
        let (host, region) = global(&config.region);
        let elsewhere = revoker.iam_endpoint_url.clone().or_else(|| config.endpoint_url.clone());
        let endpoint = elsewhere.unwrap_or_else(|| format!("https://{host}"));
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls(config)?).https_or_http();
        let client = Client::builder(TokioExecutor::new()).build(connector.enable_http1().build());
        let timeout = config.timeout.as_duration();
        let logins = Logins::new(minter, revoker.role.clone());
        Ok(Self { client, endpoint: endpoint.trim_end_matches('/').to_owned(), region, timeout, logins })
    }

    /// The role's deny document; none if it has none.
    pub(super) async fn document(&self, role: &RoleArn) -> Result<Option<String>, CallError> {
        let policy = [("RoleName", role.name()), ("PolicyName", POLICY_NAME)];
        match self.call(role, "GetRolePolicy", &policy).await {
            Ok(answer) => {
                let encoded =
                    element(&answer, "PolicyDocument").ok_or(CallError::Unreadable("it has no document"))?;
                decode(encoded).map(Some).ok_or(CallError::Unreadable("the document is not percent-encoded"))
            }
            // Of a role that is not there the message names the role.
            Err(CallError::Said { code, message, .. })
                if code == "NoSuchEntity" && message.contains(POLICY_NAME) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Names of the role's inline policies that are not ours.
    pub(super) async fn others(&self, role: &RoleArn) -> Result<Vec<String>, CallError> {
        let answer = self.call(role, "ListRolePolicies", &[("RoleName", role.name())]).await?;
        let names = answer.split("<member>").skip(1).filter_map(|rest| rest.split_once("</member>"));
        Ok(names.map(|(name, _)| name.to_owned()).filter(|name| name != POLICY_NAME).collect())
    }

    /// Replaces the role's deny document whole.
    pub(super) async fn put(&self, role: &RoleArn, document: &str) -> Result<(), CallError> {
        let policy = [("RoleName", role.name()), ("PolicyName", POLICY_NAME), ("PolicyDocument", document)];
        self.call(role, "PutRolePolicy", &policy).await.map(drop)
    }

    async fn call(&self, role: &RoleArn, action: &str, pairs: &[(&str, &str)]) -> Result<String, CallError> {
        let called = async {
            let session = self.logins.for_account_of(role).await?;
            let mut body = format!("Action={action}&Version=2010-05-08");
            for (key, value) in pairs {
                body.push('&');
                body.push_str(key);
                body.push('=');
                encode(value, &mut body);
            }
            self.ask(&session, body).await
        };
        let answered = tokio::time::timeout(self.timeout, called).await;
        let answered = answered.unwrap_or_else(|_| Err(CallError::Unanswered("no answer in time".into())));
        if let Err(CallError::Said { status: 401 | 403, .. }) = &answered {
            // Its trust or its rights may have changed; the next call has a session as they are then.
            self.logins.forget(role).await;
        }
        answered
    }

    async fn ask(&self, session: &Credentials, body: String) -> Result<String, CallError> {
        const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
        let uri = format!("{}/", self.endpoint);
        let identity = session.clone().into();
        let unmade = |error: super::super::BoxError| CallError::Unmade(error);
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name("iam")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unmade(error.into()))?
            .into();
        let headers = [("content-type", FORM)].into_iter();
        let signable =
            SignableRequest::new("POST", uri.as_str(), headers, SignableBody::Bytes(body.as_bytes()))
                .map_err(|error| unmade(error.into()))?;
        let (signature, _) = sign(signable, &parameters).map_err(|error| unmade(error.into()))?.into_parts();
        let mut request = http::Request::post(&uri)
            .header(CONTENT_TYPE, FORM)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| unmade(error.into()))?;
        signature.apply_to_request_http1x(&mut request);
        let answer = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => CallError::Unsent(error.into()),
            false => CallError::Unanswered(error.into()),
        })?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(CallError::Unanswered)?;
        let text = String::from_utf8(body.to_bytes().to_vec())
            .map_err(|_| CallError::Unreadable("it is no text"))?;
        match head.status.is_success() {
            true => Ok(text),
            false => {
                let said = |name| element(&text, name).unwrap_or_default();
                Err(CallError::said(head.status.as_u16(), said("Code"), said("Message")))
            }
        }
    }
}

/// IAM is global within a partition (AWS General Reference, "IAM endpoints and quotas").
fn global(region: &str) -> (&'static str, &'static str) {
    match region {
        china if china.starts_with("cn-") => ("iam.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        government if government.starts_with("us-gov-") => ("iam.us-gov.amazonaws.com", "us-gov-west-1"),
        _ => ("iam.amazonaws.com", "us-east-1"),
    }
}

fn tls(config: &AwsConfig) -> Result<ClientConfig, AwsConfigError> {
    use hyper_rustls::ConfigBuilderExt;

    let Some(pem) = config.roots()? else {
        let native = ClientConfig::builder().with_native_roots();
        return native.map(|with| with.with_no_client_auth()).map_err(|source| AwsConfigError::Ca {
            path: "the system's certificates".into(),
            source: source.into(),
        });
    };
    let mut roots = RootCertStore::empty();
    // They were read before.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The text of the first element of that name. What is read so holds no markup of its own.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// As RFC 3986 §2.1 has it; all but its unreserved characters.
fn encode(text: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => into.push(byte.into()),
            other => {
                into.extend(['%', HEX[usize::from(other >> 4)].into(), HEX[usize::from(other & 15)].into()])
            }
        }
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_the_way_there_and_back() {
        let document = r#"{"a": "b/c*?&=+ä%25"}"#;
        let mut encoded = String::new();
        encode(document, &mut encoded);
        assert!(
            encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"%-._~".contains(&byte)),
            "{encoded}"
        );
        assert_eq!(decode(&encoded).as_deref(), Some(document));
        for broken in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode(broken), None, "{broken}");
        }
        let answer = format!("<R><PolicyDocument>{encoded}</PolicyDocument></R>");
        assert_eq!(element(&answer, "PolicyDocument"), Some(encoded.as_str()));
        assert_eq!(element("<Code>x", "Code"), None);
    }

    #[test]
    fn each_partition_has_one_iam() {
        assert_eq!(global("eu-central-1"), ("iam.amazonaws.com", "us-east-1"));
        assert_eq!(global("cn-north-1").1, "cn-north-1");
        assert_eq!(global("us-gov-east-1"), ("iam.us-gov.amazonaws.com", "us-gov-west-1"));
    }
}
