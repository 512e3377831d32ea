//! Requests that AWS's own library signs.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use dayfly_fakecloud::Keys;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Somebody with keys.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) url: String,
    pub(crate) keys: Keys,
    pub(crate) region: String,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Said {
    pub(crate) fn text(&self, element: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(&format!("<{element}>"))?;
        rest.split_once(&format!("</{element}>")).map(|(text, _)| text)
    }

    pub(crate) fn code(&self) -> &str {
        self.text("Code").unwrap_or("none")
    }
}

impl Caller {
    pub(crate) fn new(url: String, keys: Keys) -> Self {
        Self { url, keys, region: "us-east-1".into() }
    }

    /// A call of the query protocol to IAM.
    pub(crate) async fn iam(&self, action: &str, params: &[(&str, &str)]) -> Said {
        self.try_iam(action, params).await.unwrap()
    }

    pub(crate) async fn try_iam(&self, action: &str, params: &[(&str, &str)]) -> Result<Said, String> {
        let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let mut body = format!("Action={action}&Version=2010-05-08");
        for (key, value) in params {
            body.push_str(&format!("&{key}={}", escape(value)));
        }
        self.send("iam", "POST", "/", body.into_bytes()).await
    }

    pub(crate) async fn put_policy(&self, role: &str, text: &str) -> Said {
        let params = [("RoleName", role), ("PolicyName", "dayfly-revoked"), ("PolicyDocument", text)];
        self.iam("PutRolePolicy", &params).await
    }

    /// A request to S3, beneath the bucket.
    pub(crate) async fn s3(&self, method: &str, path: &str) -> Said {
        self.send("s3", method, &format!("/s3/corpora{path}"), Vec::new()).await.unwrap()
    }

    /// S3's list of buckets, which nobody here is allowed.
    pub(crate) async fn s3_root(&self) -> Said {
        self.send("s3", "GET", "/", Vec::new()).await.unwrap()
    }

    /// Whether it may still read what it could.
    pub(crate) async fn reads(&self) -> bool {
        let said = self.s3("GET", "/corpus-7/a").await;
        assert!(
            said.status == 200 || said.body.contains("explicit deny in an identity-based policy"),
            "{said:?}"
        );
        said.status == 200
    }

    async fn send(&self, service: &str, method: &str, path: &str, body: Vec<u8>) -> Result<Said, String> {
        let url = format!("{}{path}", self.url);
        let mut settings = SigningSettings::default();
        if service == "s3" {
            settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
            settings.percent_encoding_mode = PercentEncodingMode::Single;
            settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        }
        let Keys { access_key_id, secret_access_key, session_token } = &self.keys;
        let token = Some(session_token.clone());
        let identity = Credentials::new(access_key_id, secret_access_key, token, None, "test").into();
        let params = v4::SigningParams::builder().identity(&identity).region(&self.region).name(service);
        let params = params.time(SystemTime::now()).settings(settings).build().unwrap().into();
        let mut request = http::Request::builder().method(method).uri(&url);
        let form = ("content-type", "application/x-www-form-urlencoded");
        request = request.header(form.0, form.1);
        let signable =
            SignableRequest::new(method, &url, [form].into_iter(), SignableBody::Bytes(&body)).unwrap();
        let (instructions, _) = sign(signable, &params).unwrap().into_parts();
        let mut request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
        instructions.apply_to_request_http1x(&mut request);
        let client = Client::builder(TokioExecutor::new()).build_http();
        let answer = client.request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Said { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}
