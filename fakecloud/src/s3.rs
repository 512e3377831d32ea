//! A little S3: objects to read, write and list, so that a test sees what a session can do. Path style beneath `/s3/`.

use axum::body::Body;
use axum::response::Response;
use http::Method;
use http::request::Parts;

use crate::account::{Account, Place, Session};
use crate::answer::{Refusal, request_id, xml};
use crate::policy::Context;
use crate::wire::{decode, escape, pairs};

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// As in a policy, without `s3:`.
    pub(crate) action: &'static str,
    bucket: String,
    key: String,
    prefix: String,
    is_head: bool,
}

impl Call {
    /// Reads it from the path, with or without `/s3` before it.
    ///
    /// # Errors
    /// What S3 has and the fake has not.
    pub(crate) fn read(parts: &Parts) -> Result<Self, Refusal> {
        let path = parts.uri.path();
        let path = path.strip_prefix("/s3").unwrap_or(path).trim_start_matches('/');
        let path = decode(path)
            .ok_or_else(|| Refusal::new(400, "InvalidURI", "Couldn't parse the specified URI."))?;
        let (bucket, key) = path.split_once('/').unwrap_or((&path, ""));
        let query = pairs(parts.uri.query().unwrap_or_default()).unwrap_or_default();
        let known = ["list-type", "prefix", "max-keys", "encoding-type", "x-id"];
        if let Some((name, _)) = query.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            return Err(Refusal::not_known(format!("S3's parameter {name:?}")));
        }
        let action = match (&parts.method, bucket.is_empty(), key.is_empty()) {
            (&Method::GET | &Method::HEAD, false, false) => "GetObject",
            (&Method::PUT, false, false) => "PutObject",
            (&Method::DELETE, false, false) => "DeleteObject",
            (&Method::GET, false, true) => "ListBucket",
            (&Method::GET, true, true) => "ListAllMyBuckets",
            (method, ..) => return Err(Refusal::not_known(format!("S3's {method} {path:?}"))),
        };
        let prefix = query.into_iter().find(|(name, _)| name == "prefix").map(|(_, value)| value);
        Ok(Self {
            action,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            prefix: prefix.unwrap_or_default(),
            is_head: parts.method == Method::HEAD,
        })
    }

    /// The ARN of the object, or of the bucket that is listed.
    pub(crate) fn resource(&self) -> String {
        match self.action {
            "ListAllMyBuckets" => "*".to_owned(),
            "ListBucket" => format!("arn:aws:s3:::{}", self.bucket),
            _ => format!("arn:aws:s3:::{}/{}", self.bucket, self.key),
        }
    }

    /// Does it, if the session may.
    ///
    /// # Errors
    /// `AccessDenied`, `NoSuchBucket`, `NoSuchKey`.
    pub(crate) fn answer(
        &self,
        account: &mut Account,
        session: &Session,
        place: Place<'_>,
        body: &[u8],
    ) -> Result<Response, Refusal> {
        let listing = || Context::default().with("s3:prefix", &self.prefix);
        let context = if self.action == "ListBucket" { listing() } else { Context::default() };
        account.authorize(session, place, &format!("s3:{}", self.action), &self.resource(), context)?;
        if self.action == "ListAllMyBuckets" {
            let name = |bucket: &String| format!("<Bucket><Name>{}</Name></Bucket>", escape(bucket));
            let names: String = account.buckets.keys().map(name).collect();
            let body = format!("<ListAllMyBucketsResult><Buckets>{names}</Buckets></ListAllMyBucketsResult>");
            return Ok(xml(200, &request_id(), body));
        }
        // Whoever may not list does not learn what there is (AWS, GetObject, "Permissions").
        let bucket_arn = format!("arn:aws:s3:::{}", self.bucket);
        let may_list =
            account.authorize(session, place, "s3:ListBucket", &bucket_arn, Context::default()).is_ok();
        let no_bucket = || Refusal::new(404, "NoSuchBucket", "The specified bucket does not exist");
        let bucket = account.buckets.get_mut(&self.bucket).ok_or_else(no_bucket)?;
        match self.action {
            "GetObject" => match bucket.get(&self.key) {
                Some(_) if self.is_head => Ok(plain(Vec::new())),
                Some(object) => Ok(plain(object.clone())),
                None if may_list => Err(Refusal::new(404, "NoSuchKey", "The specified key does not exist.")),
                None => Err(Refusal::new(403, "AccessDenied", "Access Denied")),
            },
            "PutObject" => {
                bucket.insert(self.key.clone(), body.to_vec());
                Ok(plain(Vec::new()))
            }
            "DeleteObject" => {
                bucket.remove(&self.key);
                Ok(plain(Vec::new()))
            }
            _ => Ok(self.list(bucket.keys().filter(|key| key.starts_with(&self.prefix)))),
        }
    }

    fn list<'a>(&self, keys: impl Iterator<Item = &'a String>) -> Response {
        let contents: Vec<String> = keys
            .map(|key| format!("<Contents><Key>{}</Key><Size>0</Size></Contents>", escape(key)))
            .collect();
        let body = format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{}</ListBucketResult>",
            escape(&self.bucket),
            escape(&self.prefix),
            contents.len(),
            contents.concat()
        );
        xml(200, &request_id(), body)
    }
}

fn plain(body: Vec<u8>) -> Response {
    let builder = Response::builder().header("x-amz-request-id", request_id()).header("etag", "\"fake\"");
    builder.body(Body::from(body)).expect("fixed headers")
}
