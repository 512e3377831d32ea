//! Names of our token issuers: one URL for each kind of token, under one base.

use http::Uri;
use serde::Deserialize;
use thiserror::Error;

use crate::signer::Use;

/// AWS takes issuer URLs of at most 255 characters, `/federation` and `/revocation` included.
const MAX_BASE: usize = 255 - "/federation".len();

/// The issuers of this broker. They share a base, no key and no audience.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Issuers {
    base: String,
    access: String,
    federation: String,
    receipt: String,
    revocation: String,
}

/// Why a text cannot be the issuers' base URL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IssuerFault {
    /// Not `https://host[:port][/path]`.
    #[error(
        "an issuer URL is https://host[:port][/path] in lower-case host, without user, query, fragment or trailing slash"
    )]
    Form,
    /// Plain HTTP to somewhere others can listen and answer.
    #[error("an issuer URL is https; http is taken on loopback only")]
    NotHttps,
    /// Too long for AWS.
    #[error("an issuer URL has at most {MAX_BASE} characters")]
    TooLong,
}

impl Issuers {
    /// From the base URL.
    pub fn new(base: &str) -> Result<Self, IssuerFault> {
        if base.len() > MAX_BASE {
            return Err(IssuerFault::TooLong);
        }
        let https = check_url(base).ok_or(IssuerFault::Form)?;
        if base.ends_with('/') {
            return Err(IssuerFault::Form);
        }
        if !https && !is_loopback(base) {
            return Err(IssuerFault::NotHttps);
        }
        let of = |purpose: Use| format!("{base}/{}", purpose.name());
        Ok(Self {
            base: base.to_owned(),
            access: of(Use::Access),
            federation: of(Use::Federation),
            receipt: of(Use::Receipt),
            revocation: of(Use::Revocation),
        })
    }

    /// The base URL.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `iss` of one kind of token.
    pub fn url(&self, purpose: Use) -> &str {
        match purpose {
            Use::Access => &self.access,
            Use::Federation => &self.federation,
            Use::Receipt => &self.receipt,
            Use::Revocation => &self.revocation,
        }
    }

    /// Where the keys of one kind of token are read.
    pub fn jwks_uri(&self, purpose: Use) -> String {
        format!("{}/jwks.json", self.url(purpose))
    }

    /// Whether a URL is one of ours, or lies under them.
    pub fn own(&self, url: &str) -> bool {
        url.strip_prefix(&self.base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl TryFrom<String> for Issuers {
    type Error = IssuerFault;

    fn try_from(base: String) -> Result<Self, IssuerFault> {
        Self::new(&base)
    }
}

/// Checks that a text is an http or https URL in the one spelling we compare: lower-case host, no user, query or
/// fragment, no default port, no escapes, no relative segments. Says whether it is https.
pub(crate) fn check_url(text: &str) -> Option<bool> {
    let (https, rest) = match text.split_once("://")? {
        ("https", rest) => (true, rest),
        ("http", rest) => (false, rest),
        _ => return None,
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:[]".contains(&byte);
    if !rest.bytes().all(plain) {
        return None;
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let uri: Uri = text.parse().ok()?;
    let host = uri.host()?;
    let default_port = if https { ":443" } else { ":80" };
    let one_spelling = !authority.bytes().any(|byte| byte.is_ascii_uppercase())
        && !host.is_empty()
        && !host.ends_with('.')
        && !authority.ends_with(':')
        && !authority.ends_with(default_port);
    let segments_plain = path.split('/').skip(1).enumerate().all(|(index, segment)| {
        let last = path.matches('/').count() == index + 1;
        !matches!(segment, "." | "..") && (!segment.is_empty() || last)
    });
    (one_spelling && segments_plain && !path.contains([':', '[', ']'])).then_some(https)
}

/// Whether a checked URL's host is this machine itself.
fn is_loopback(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(Uri::host).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_token_has_an_issuer_of_its_own() {
        let issuers = Issuers::new("https://issuer.example").expect("a base");
        assert_eq!(issuers.url(Use::Access), "https://issuer.example/access");
        assert_eq!(issuers.url(Use::Federation), "https://issuer.example/federation");
        assert_eq!(issuers.url(Use::Receipt), "https://issuer.example/receipt");
        assert_eq!(issuers.jwks_uri(Use::Federation), "https://issuer.example/federation/jwks.json");
        for url in ["", "/", "/access", "/federation", "/receipt/x"] {
            assert!(issuers.own(&format!("https://issuer.example{url}")), "{url}");
        }
        assert!(
            !issuers.own("https://issuer.example.org/access") && !issuers.own("https://other.example/access")
        );
    }

    #[test]
    fn plain_http_is_for_loopback_alone() {
        for base in ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:9/a", "http://127.9.9.9"]
        {
            assert!(Issuers::new(base).is_ok(), "{base}");
        }
        for base in [
            "http://issuer.example",
            "http://10.0.0.1",
            "http://localhost.example",
            "http://127.0.0.1.example",
        ] {
            assert_eq!(Issuers::new(base), Err(IssuerFault::NotHttps), "{base}");
        }
    }

    #[test]
    fn a_second_spelling_of_a_url_is_refused() {
        for base in [
            "",
            "issuer.example",
            "ftp://issuer.example",
            "https://",
            "https://issuer.example/",
            "https://Issuer.example",
            "HTTPS://issuer.example",
            "https://issuer.example.",
            "https://issuer.example:443",
            "https://issuer.example:",
            "https://user@issuer.example",
            "https://issuer.example?x",
            "https://issuer.example#x",
            "https://issuer.example/a/../b",
            "https://issuer.example//a",
            "https://issuer.example/%61",
            "https://issuer.example/{x}",
            "https://issuer.example/a b",
        ] {
            assert_eq!(Issuers::new(base), Err(IssuerFault::Form), "{base}");
        }
        assert_eq!(Issuers::new(&format!("https://{}", "a".repeat(300))), Err(IssuerFault::TooLong));
        assert!(Issuers::new("https://issuer.example:8443/dayfly").is_ok());
    }

    #[test]
    fn the_configuration_refuses_what_it_does_not_know() {
        use crate::public::{IntrospectionConfig, IssuerConfig};
        let read = |text| toml::from_str::<IssuerConfig>(text);
        assert!(read("url = 'https://issuer.example'\nlisten = '127.0.0.1:8080'").is_ok());
        assert!(read("url = 'http://issuer.example'\nlisten = '127.0.0.1:8080'").is_err());
        assert!(read("url = 'https://issuer.example'\nlissen = '127.0.0.1:8080'").is_err());
        assert!(toml::from_str::<IntrospectionConfig>("listen = '127.0.0.1:8444'\nx = 1").is_err());
    }
}
