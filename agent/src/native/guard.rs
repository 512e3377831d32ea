//! What a request's headers must and must not say, before anything else is looked at.
//!
//! A page in a browser, a proxy, or a fetcher that was talked into it can all send requests to a loopback port. They
//! name another host, or say for whom they ask.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HOST};

/// Headers that only a browser or a proxy adds.
const FOREIGN: [&str; 5] = ["origin", "forwarded", "via", "sec-fetch-site", "x-real-ip"];

/// Refuses a request that was not sent straight to `host` (`127.0.0.1:port`) by a program.
pub fn check(headers: &HeaderMap, host: &str) -> Result<(), &'static str> {
    if only(headers, HOST.as_str())? != host.as_bytes() {
        return Err("the Host header is not this endpoint's address");
    }
    if FOREIGN.iter().any(|name| headers.contains_key(*name)) {
        return Err("the request comes from a browser or by way of a proxy");
    }
    if headers.keys().any(|name| name.as_str().starts_with("x-forwarded-")) {
        return Err("the request comes by way of a proxy");
    }
    Ok(())
}

/// The value of a header that must stand there exactly once.
pub fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a [u8], &'static str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Ok(value.as_bytes()),
        (None, _) => Err(match name {
            "host" => "there is no Host header",
            "authorization" => "there is no Authorization header",
            _ => "a header that is needed is missing",
        }),
        (Some(_), Some(_)) => Err("a header stands there twice"),
    }
}

/// The bearer as the AWS SDKs send it: the whole value, without a scheme.
pub fn authorization(headers: &HeaderMap) -> Result<&[u8], &'static str> {
    only(headers, AUTHORIZATION.as_str())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn only_a_direct_request_to_this_very_address_passes() {
        let ours = "127.0.0.1:4242";
        for (pairs, passes) in [
            (&[("host", ours)][..], true),
            (&[("host", ours), ("user-agent", "Boto3/1.40"), ("accept", "application/json")], true),
            (&[], false),
            (&[("host", "localhost:4242")], false),
            (&[("host", "127.0.0.1")], false),
            (&[("host", "127.0.0.1:42420")], false),
            (&[("host", "127.0.0.1:4243")], false),
            (&[("host", "rebind.example:4242")], false),
            (&[("host", ours), ("host", ours)], false),
            (&[("host", ours), ("origin", "null")], false),
            (&[("host", ours), ("via", "1.1 proxy")], false),
            (&[("host", ours), ("forwarded", "for=10.0.0.1")], false),
            (&[("host", ours), ("x-forwarded-for", "10.0.0.1")], false),
            (&[("host", ours), ("x-forwarded-anything", "")], false),
            (&[("host", ours), ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(check(&headers(pairs), ours).is_ok(), passes, "{pairs:?}");
        }
    }

    #[test]
    fn a_bearer_that_stands_there_twice_is_none() {
        assert_eq!(authorization(&headers(&[("authorization", "abc")])), Ok(&b"abc"[..]));
        assert!(authorization(&headers(&[("authorization", "abc"), ("authorization", "abc")])).is_err());
        assert!(authorization(&headers(&[])).is_err());
    }
}
