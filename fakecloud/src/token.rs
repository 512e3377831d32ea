//! Web identity tokens: signature and claims, checked as STS does (AWS, AssumeRoleWithWebIdentity; "Pass session tags in
//! AWS STS").

use std::collections::BTreeMap;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::answer::Refusal;

const TAGS: &str = "https://aws.amazon.com/tags";
const SOURCE_IDENTITY: &str = "https://aws.amazon.com/source_identity";
const ROLES: &str = "https://aws.amazon.com/roles";

/// A token, split and not yet believed.
#[derive(Debug)]
pub(crate) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: String,
    pub(crate) key_id: Option<String>,
    claims: Value,
}

/// What a token says that was believed.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) audience: String,
    pub(crate) subject: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) transitive: Vec<String>,
    pub(crate) source_identity: Option<String>,
    /// The roles it may be traded for, if it says.
    pub(crate) roles: Option<Vec<String>>,
}

fn invalid(what: impl Into<String>) -> Refusal {
    Refusal::new(400, "InvalidIdentityToken", what)
}

impl<'a> Token<'a> {
    /// # Errors
    /// What is no JWT.
    pub(crate) fn split(text: &'a str) -> Result<Self, Refusal> {
        let unfit = || {
            invalid(
                "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)",
            )
        };
        let (signed, signature) = text.rsplit_once('.').ok_or_else(unfit)?;
        let (header, claims) = signed.split_once('.').ok_or_else(unfit)?;
        let json = |part: &str| -> Option<Value> {
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
        };
        let (header, claims) = (json(header).ok_or_else(unfit)?, json(claims).ok_or_else(unfit)?);
        let text = |name: &str| header[name].as_str().map(str::to_owned);
        Ok(Self {
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).map_err(|_| unfit())?,
            algorithm: text("alg").ok_or_else(unfit)?,
            key_id: text("kid"),
            claims,
        })
    }

    /// Whom it says it is from.
    pub(crate) fn issuer(&self) -> &str {
        self.claims["iss"].as_str().unwrap_or_default()
    }

    /// Checks it with a key of its issuer's set, its time and its audience.
    ///
    /// # Errors
    /// What STS would refuse.
    pub(crate) fn verify(&self, key: &Value, client_ids: &[String], now: i64) -> Result<Claims, Refusal> {
        if !verifies(&self.algorithm, key, self.signed.as_bytes(), &self.signature) {
            return Err(invalid("The signature of the token is not its issuer's"));
        }
        let number = |name: &str| {
            self.claims[name].as_i64().ok_or_else(|| invalid(format!("Missing a required claim: {name}")))
        };
        let text = |name: &str| {
            self.claims[name].as_str().ok_or_else(|| invalid(format!("Missing a required claim: {name}")))
        };
        number("iat")?;
        let expires = number("exp")?;
        if expires <= now {
            let what = format!(
                "Token expired: current date/time {now} must be before the expiration date/time {expires}"
            );
            return Err(Refusal::new(400, "ExpiredTokenException", what));
        }
        let (audience, subject) = (text("aud")?, text("sub")?);
        if !client_ids.iter().any(|id| id == audience) {
            return Err(invalid("Incorrect token audience"));
        }
        // botocore, `webIdentitySubjectType`.
        if !(6..=255).contains(&subject.len()) {
            return Err(invalid("The subject has not 6 to 255 characters"));
        }
        let known = [TAGS, SOURCE_IDENTITY, ROLES];
        let claims = self.claims.as_object().into_iter().flatten();
        for (name, _) in claims.filter(|(name, _)| name.starts_with("https://aws.amazon.com/")) {
            if !known.contains(&name.as_str()) {
                return Err(Refusal::not_known(format!("the claim {name:?}")));
            }
        }
        let (tags, transitive) = tags(&self.claims[TAGS])?;
        Ok(Claims {
            audience: audience.to_owned(),
            subject: subject.to_owned(),
            tags,
            transitive,
            source_identity: source_identity(&self.claims[SOURCE_IDENTITY])?,
            roles: match &self.claims[ROLES] {
                Value::Null => None,
                Value::String(one) => Some(vec![one.clone()]),
                list => Some(strings(list).ok_or_else(|| invalid("The roles of the token are no list"))?),
            },
        })
    }
}

fn verifies(algorithm: &str, key: &Value, signed: &[u8], signature: &[u8]) -> bool {
    let part = |name: &str| URL_SAFE_NO_PAD.decode(key[name].as_str()?).ok();
    let rsa = |parameters| {
        let (Some(n), Some(e)) = (part("n"), part("e")) else { return false };
        RsaPublicKeyComponents { n, e }.verify(parameters, signed, signature).is_ok()
    };
    match (algorithm, key["kty"].as_str()) {
        ("RS256", Some("RSA")) => rsa(&RSA_PKCS1_2048_8192_SHA256),
        ("RS384", Some("RSA")) => rsa(&RSA_PKCS1_2048_8192_SHA384),
        ("RS512", Some("RSA")) => rsa(&RSA_PKCS1_2048_8192_SHA512),
        ("ES256", Some("EC")) if key["crv"] == "P-256" => {
            let (Some(x), Some(y)) = (part("x"), part("y")) else { return false };
            let point = [&[4], x.as_slice(), y.as_slice()].concat();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature).is_ok()
        }
        _ => false,
    }
}

/// Tags as lists of one text each, and which of them go on along chained roles.
fn tags(claim: &Value) -> Result<(BTreeMap<String, String>, Vec<String>), Refusal> {
    let unfit = |what: &str| invalid(format!("The session tags of the token are not valid: {what}"));
    let mut tags = BTreeMap::new();
    let principal = claim["principal_tags"].as_object();
    if principal.is_none() && !claim.is_null() {
        return Err(unfit("principal_tags"));
    }
    for (key, value) in principal.into_iter().flatten() {
        let Some([value]) = strings(value)
            .as_deref()
            .map(<[String]>::to_vec)
            .and_then(|list| <[String; 1]>::try_from(list).ok())
        else {
            return Err(unfit(key));
        };
        let (length, most) = (key.chars().count(), value.chars().count());
        let plain =
            |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c));
        let reserved = key.to_lowercase().starts_with("aws:");
        if !(1..=128).contains(&length) || most > 256 || reserved || !plain(key) || !plain(&value) {
            return Err(unfit(key));
        }
        // AWS tells keys apart without their case.
        if tags.keys().any(|other: &String| other.eq_ignore_ascii_case(key)) {
            return Err(unfit(key));
        }
        tags.insert(key.clone(), value);
    }
    if tags.len() > 50 {
        return Err(unfit("more than 50"));
    }
    let transitive = match &claim["transitive_tag_keys"] {
        Value::Null => Vec::new(),
        list => strings(list).ok_or_else(|| unfit("transitive_tag_keys"))?,
    };
    match transitive.iter().find(|key| !tags.contains_key(*key)) {
        Some(key) => Err(unfit(key)),
        None => Ok((tags, transitive)),
    }
}

fn source_identity(claim: &Value) -> Result<Option<String>, Refusal> {
    match claim {
        Value::Null => Ok(None),
        Value::String(text) if is_name(text, 2, 64) => Ok(Some(text.clone())),
        _ => Err(invalid("The source identity is not valid")),
    }
}

/// `[\w+=,.@-]*`, as of session names and source identities.
pub(crate) fn is_name(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b))
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}
