//! Brings a path to one form before it is matched, and says which of Vault's paths are not for a task.
//!
//! What is matched is what is sent on: the path is decoded once, checked, and encoded anew. A second decoding anywhere
//! behind would find nothing left to decode, as an encoded percent sign is refused.

/// The longest path, in bytes. Vault's mounts and names are far shorter.
const LONGEST: usize = 4096;

/// Why a path is not sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not a path of Vault's API.
    #[error("only paths below /v1/ are passed on")]
    NotApi,
    /// It could mean something else to somebody behind us.
    #[error("the path is written in a way that is not passed on: {0}")]
    Unclear(&'static str),
    /// It gives tokens, or ends what others hold.
    #[error(
        "{0} is not for a task: its token is the agent's to hold, and its leases are the broker's to end"
    )]
    Forbidden(&'static str),
}

/// The path in its one form, percent-encoded, or why it is not passed on.
pub fn normalise(path: &str) -> Result<String, PathError> {
    if path.len() > LONGEST {
        return Err(PathError::Unclear("it is too long"));
    }
    let decoded = decode(path)?;
    let rest = decoded.strip_prefix(b"/").ok_or(PathError::NotApi)?;
    let mut segments = Vec::new();
    for segment in rest.split(|&b| b == b'/') {
        match segment {
            // `//` means `/` to some and not to others.
            b"" => {}
            b"." | b".." => return Err(PathError::Unclear("it has dots for a segment")),
            _ => segments.push(segment),
        }
    }
    let Some((&b"v1", segments @ [_, ..])) = segments.split_first() else { return Err(PathError::NotApi) };
    refuse_forbidden(segments)?;
    let mut out = String::from("/v1");
    for segment in segments {
        out.push('/');
        encode(segment, &mut out);
    }
    // Vault lists `path/` and reads `path`.
    if decoded.ends_with(b"/") {
        out.push('/');
    }
    Ok(out)
}

/// Wherever they stand: before them may be the path of a namespace, which names mounts of its own.
fn refuse_forbidden(segments: &[&[u8]]) -> Result<(), PathError> {
    let is = |segment: &[u8], word: &str| segment.eq_ignore_ascii_case(word.as_bytes());
    if segments.first().is_some_and(|first| is(first, "auth")) {
        return Err(PathError::Forbidden("auth/"));
    }
    for pair in segments.windows(2) {
        let [first, second] = pair else { continue };
        if is(first, "auth") && is(second, "token") {
            return Err(PathError::Forbidden("auth/"));
        }
        if !is(first, "sys") {
            continue;
        }
        if is(second, "wrapping") {
            return Err(PathError::Forbidden("sys/wrapping/"));
        }
        // The second row holds the old names of the first.
        for word in ["leases", "revoke", "revoke-prefix", "revoke-force", "renew"] {
            if is(second, word) {
                return Err(PathError::Forbidden("sys/leases/"));
            }
        }
    }
    Ok(())
}

/// RFC 3986 §2.1.
fn decode(path: &str) -> Result<Vec<u8>, PathError> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let value = if byte == b'%' {
            let digits = bytes.get(at + 1..at + 3).and_then(|digits| str::from_utf8(digits).ok());
            let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            at += 2;
            digits
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                .ok_or(PathError::Unclear("it has a broken percent sign"))?
        } else {
            byte
        };
        let was_encoded = byte == b'%';
        match value {
            b'%' => return Err(PathError::Unclear("it has an encoded percent sign")),
            b'/' if was_encoded => return Err(PathError::Unclear("it has an encoded slash")),
            b'\\' => return Err(PathError::Unclear("it has a backslash")),
            b'?' | b'#' | b';' => return Err(PathError::Unclear("it has an encoded separator")),
            0..0x20 | 0x7f => return Err(PathError::Unclear("it has a control character")),
            _ => out.push(value),
        }
        at += 1;
    }
    if str::from_utf8(&out).is_err() {
        return Err(PathError::Unclear("it is not UTF-8"));
    }
    Ok(out)
}

/// RFC 3986 §3.3, without the sub-delimiters that some take for separators.
fn encode(segment: &[u8], out: &mut String) {
    for &byte in segment {
        if byte.is_ascii_alphanumeric() || b"-._~@:+,=!*$&'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_form() {
        for (given, sent) in [
            ("/v1/secret/data/x", "/v1/secret/data/x"),
            ("//v1//secret/data/x", "/v1/secret/data/x"),
            ("/v1/secret/metadata/", "/v1/secret/metadata/"),
            ("/v1/secret/metadata//", "/v1/secret/metadata/"),
            ("/v1/%73ecret/data/x", "/v1/secret/data/x"),
            ("/v1/secret/data/a%20b", "/v1/secret/data/a%20b"),
            ("/v1/secret/data/\u{e9}", "/v1/secret/data/%C3%A9"),
            ("/v1/secret/data/...", "/v1/secret/data/..."),
            ("/v1/secret/data/author", "/v1/secret/data/author"),
            ("/v1/secret/data/auth/app", "/v1/secret/data/auth/app"),
            ("/v1/sys/mounts", "/v1/sys/mounts"),
            ("/v1/database/creds/ro", "/v1/database/creds/ro"),
        ] {
            assert_eq!(normalise(given).as_deref(), Ok(sent), "{given}");
        }
    }

    #[test]
    fn what_gives_tokens_or_ends_leases_is_forbidden_however_it_is_written() {
        for path in [
            "/v1/auth/token/lookup-self",
            "/v1/auth/token/create",
            "/v1/auth/approle/login",
            "/v1/auth",
            "/v1/AUTH/token/lookup-self",
            "/v1/%61uth/token/lookup-self",
            "/v1//auth/token/lookup-self",
            "//v1/auth/token/lookup-self",
            "/v1/team-a/auth/token/lookup-self",
            "/v1/team-a/sub/sys/wrapping/unwrap",
            "/v1/sys/wrapping/wrap",
            "/v1/sys/wrapping/unwrap/",
            "/v1/sys//wrapping/unwrap",
            "/v1/sys/leases/revoke",
            "/v1/sys/leases/lookup/database/creds/ro",
            "/v1/sys/revoke/x",
            "/v1/sys/revoke-prefix/x",
            "/v1/sys/renew",
        ] {
            assert!(matches!(normalise(path), Err(PathError::Forbidden(_))), "{path}: {:?}", normalise(path));
        }
    }

    #[test]
    fn what_could_mean_something_else_behind_us_is_refused() {
        for path in [
            "/v1/secret/../auth/token/lookup-self",
            "/v1/secret/%2e%2e/auth/token/lookup-self",
            "/v1/secret/./x",
            "/v1/secret/%252e%252e/x",
            "/v1/auth%2ftoken/lookup-self",
            "/v1/secret\\..\\auth",
            "/v1/secret/%5c",
            "/v1/secret/%00",
            "/v1/secret/%0a",
            "/v1/secret/%3fx",
            "/v1/secret/%23x",
            "/v1/secret/;x",
            "/v1/secret/%",
            "/v1/secret/%2",
            "/v1/secret/%zz",
            "/v1/secret/%+1",
            "/v1/secret/%ff",
        ] {
            assert!(matches!(normalise(path), Err(PathError::Unclear(_))), "{path}: {:?}", normalise(path));
        }
        let long = format!("/v1/{}", "a".repeat(LONGEST));
        assert!(normalise(&long).is_err());
    }

    #[test]
    fn only_the_api_is_passed_on() {
        for path in ["", "/", "/v1", "/v1/", "/ui/vault", "v1/secret", "/V1/secret", "/v2/secret", "*"] {
            assert_eq!(normalise(path), Err(PathError::NotApi), "{path}");
        }
    }

    #[test]
    fn normalising_twice_changes_nothing() {
        for path in ["/v1/secret/data/a%20b", "/v1/a/b+c/\u{fc}", "/v1/x/y/", "/v1/k/(1)*"] {
            let once = normalise(path).expect("it is a plain path");
            assert_eq!(normalise(&once).as_ref(), Ok(&once));
        }
    }
}
