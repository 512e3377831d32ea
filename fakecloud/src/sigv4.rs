//! Signatures of requests (AWS, "Create a signed AWS API request"), checked with primitives of our own, so that a client's
//! library is not its own judge.

use aws_lc_rs::{constant_time, digest, hmac};
use http::request::Parts;
use jiff::Timestamp;

use crate::answer::{Refusal, Service};
use crate::wire::{decode, encode, pairs};

/// What the `Authorization` header says, before it is believed.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) access_key_id: String,
    pub(crate) region: String,
    pub(crate) token: Option<String>,
    date: String,
    signed_headers: Vec<String>,
    signature: String,
}

impl Claim {
    /// Reads it.
    ///
    /// # Errors
    /// A request without a signature, or with half of one.
    pub(crate) fn read(parts: &Parts, service: Service) -> Result<Self, Refusal> {
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let missing =
            || Refusal::new(403, "MissingAuthenticationToken", "Request is missing Authentication Token");
        let unfit = |what: &str| Refusal::new(400, "IncompleteSignature", what.to_owned());
        let text = header("authorization").ok_or_else(missing)?;
        let text = text.strip_prefix("AWS4-HMAC-SHA256 ").ok_or_else(|| unfit("Unsupported algorithm"))?;
        let field = |name: &str| {
            let found = text.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
            found.ok_or_else(|| unfit(&format!("Authorization header requires '{name}' parameter.")))
        };
        let credential: Vec<&str> = field("Credential")?.split('/').collect();
        let [key, date, region, name, "aws4_request"] = credential.as_slice() else {
            return Err(unfit("Credential must have 5 slash-delimited elements"));
        };
        if *name != service.name() {
            let what = format!("Credential should be scoped to correct service: '{}'.", service.name());
            return Err(Refusal::new(403, "SignatureDoesNotMatch", what));
        }
        // IAM is global: AWS takes no other region for it.
        if service == Service::Iam && *region != "us-east-1" {
            return Err(Refusal::new(
                403,
                "SignatureDoesNotMatch",
                "Credential should be scoped to a valid region.",
            ));
        }
        let stamp = header("x-amz-date").ok_or_else(|| unfit("Request must contain 'X-Amz-Date'"))?;
        let signed_headers: Vec<String> = field("SignedHeaders")?.split(';').map(str::to_owned).collect();
        let token = header("x-amz-security-token").map(str::to_owned);
        let is_signed = |name: &str| signed_headers.iter().any(|signed| signed == name);
        if !is_signed("host")
            || (token.is_some() && !is_signed("x-amz-security-token"))
            || !stamp.starts_with(date)
        {
            return Err(unfit("a header that must be signed is not"));
        }
        Ok(Self {
            access_key_id: (*key).to_owned(),
            region: (*region).to_owned(),
            token,
            date: stamp.to_owned(),
            signed_headers,
            signature: field("Signature")?.to_owned(),
        })
    }

    /// Whether the secret key made this signature, and lately.
    ///
    /// # Errors
    /// As AWS tells them.
    pub(crate) fn check(
        &self,
        parts: &Parts,
        body: &[u8],
        service: Service,
        secret: &str,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let at = moment(&self.date)
            .ok_or_else(|| Refusal::new(400, "IncompleteSignature", "Date is not valid"))?;
        // Five minutes, S3 fifteen.
        let (code, skew) = match service {
            Service::S3 => ("RequestTimeTooSkewed", 900_000),
            Service::Sts | Service::Iam => ("SignatureDoesNotMatch", 300_000),
        };
        if (at.as_millisecond() - now_ms).abs() > skew {
            return Err(Refusal::new(403, code, "Signature expired or not yet current"));
        }
        let request = canonical(parts, body, service, &self.signed_headers)?;
        let (day, name) = (&self.date[..8], service.name());
        let scope = format!("{day}/{}/{name}/aws4_request", self.region);
        let to_sign =
            format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", self.date, hex(&sha256(request.as_bytes())));
        let mut key = format!("AWS4{secret}").into_bytes();
        for part in [day, &self.region, name, "aws4_request"] {
            key = sign(&key, part);
        }
        let expected = hex(&sign(&key, &to_sign));
        match constant_time::verify_slices_are_equal(expected.as_bytes(), self.signature.as_bytes()) {
            Ok(()) => Ok(()),
            Err(_) => Err(Refusal::new(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            )),
        }
    }
}

fn canonical(parts: &Parts, body: &[u8], service: Service, signed: &[String]) -> Result<String, Refusal> {
    let unfit = || Refusal::new(400, "IncompleteSignature", "the request cannot be made canonical");
    // Each segment is encoded once by S3 and twice by the others.
    let segment = |text: &str| match service {
        Service::S3 => decode(text).map(|text| encode(&text)),
        Service::Sts | Service::Iam => Some(encode(text)),
    };
    let path =
        parts.uri.path().split('/').map(segment).collect::<Option<Vec<_>>>().ok_or_else(unfit)?.join("/");
    let mut query = pairs(parts.uri.query().unwrap_or_default()).ok_or_else(unfit)?;
    for (key, value) in &mut query {
        (*key, *value) = (encode(key), encode(value));
    }
    query.sort();
    let query: Vec<String> = query.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut headers = String::new();
    for name in signed {
        let values: Vec<String> = parts
            .headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        if values.is_empty() {
            return Err(unfit());
        }
        headers.push_str(&format!("{name}:{}\n", values.join(",")));
    }
    let hash = hex(&sha256(body));
    let said = parts.headers.get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
    let payload = match said {
        Some("UNSIGNED-PAYLOAD") => "UNSIGNED-PAYLOAD",
        Some(said) if said.starts_with("STREAMING-") => {
            return Err(Refusal::not_known(format!("the payload {said}")));
        }
        Some(said) if said != hash => {
            return Err(Refusal::new(
                400,
                "XAmzContentSHA256Mismatch",
                "The provided hash does not match the body.",
            ));
        }
        Some(_) | None => hash.as_str(),
    };
    Ok(format!("{}\n{path}\n{}\n{headers}\n{}\n{payload}", parts.method, query.join("&"), signed.join(";")))
}

/// `20260102T030405Z`.
fn moment(text: &str) -> Option<Timestamp> {
    let wide = text.len() == 16 && text.is_ascii();
    let at = |from: usize, to: usize| wide.then(|| &text[from..to]);
    let (date, time) = (at(0, 8)?, at(9, 15)?);
    let spread = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &time[..2],
        &time[2..4],
        &time[4..]
    );
    spread.parse().ok()
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
