//! Paths of a Vault that hand out what outlives the token it was asked with: tokens of their own, passwords that are
//! nobody's lease, sessions at a cloud. A policy may open one only if its scope says what it leaves behind.
//!
//! The list is reviewed by people and never whole: whoever writes an engine can add to it.

use super::hcl::Stanza;

/// Paths by what they leave behind. `+` is one segment, `*` any text.
const FIXED: [(&str, &str); 10] = [
    ("auth/*/login", "tokens"),
    ("auth/*/login/*", "tokens"),
    ("auth/*/role/+/secret-id", "tokens"),
    ("auth/*/role/+/custom-secret-id", "tokens"),
    ("auth/token/create", "tokens"),
    ("auth/token/create/*", "tokens"),
    ("auth/token/create-orphan", "tokens"),
    ("sys/wrapping/*", "wrapped_secrets"),
    ("identity/oidc/token/*", "identity_tokens"),
    ("identity/oidc/provider/*", "identity_tokens"),
];

/// The same below the mounts of an engine.
const OF_ENGINES: [(&str, &str, &str); 8] = [
    ("database", "static-creds/*", "passwords"),
    ("ldap", "static-cred/*", "passwords"),
    ("aws", "creds/*", "role_sessions"),
    ("aws", "sts/*", "role_sessions"),
    ("aws", "static-creds/*", "access_keys"),
    ("gcp", "token/*", "access_tokens"),
    ("gcp", "+/+/token", "access_tokens"),
    ("kubernetes", "creds/*", "service_account_tokens"),
];

/// An engine's mount, as Vault lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// With a slash at its end.
    pub(super) path: String,
    /// `kv`, `database`, `aws` …
    pub(super) engine: String,
}

/// A path that escapes, and a word for what it leaves behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) within: String,
    pub(super) noun: &'static str,
}

/// Every path of a policy that could reach one of the list.
pub(super) fn within(stanzas: &[Stanza], mounts: &[Mount]) -> Vec<Found> {
    let of_engines = mounts.iter().flat_map(|mount| {
        let listed = OF_ENGINES.iter().filter(|(engine, ..)| *engine == mount.engine);
        listed.map(|(_, path, noun)| (format!("{}{path}", mount.path), *noun))
    });
    let listed: Vec<(String, &'static str)> =
        FIXED.iter().map(|(path, noun)| ((*path).to_owned(), *noun)).chain(of_engines).collect();
    let opens = stanzas.iter().filter(|stanza| gives(stanza));
    let first = |stanza: &Stanza| {
        let (path, noun) = listed.iter().find(|(listed, _)| overlap(&parts(&stanza.path), &parts(listed)))?;
        Some(Found { path: stanza.path.clone(), within: path.clone(), noun })
    };
    opens.filter_map(first).collect()
}

/// Whether anything can be got at the path. `deny` is stronger than all that stands beside it.
fn gives(stanza: &Stanza) -> bool {
    let harmless = ["list", "delete", "subscribe"];
    !stanza.capabilities.iter().any(|capability| capability == "deny")
        && stanza.capabilities.iter().any(|capability| !harmless.contains(&capability.as_str()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    One(char),
    /// One character, no slash.
    Within,
    /// Any number of characters, no slash.
    Segment,
    /// Any text.
    Any,
}

/// A path with its wildcards. Vault takes `*` at the end and `+` as a whole segment for wildcards, and fills in `{{…}}`;
/// here a `*` in the middle is one too, for more is refused that way, never less.
fn parts(path: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (index, segment) in path.trim_start_matches('/').to_lowercase().split('/').enumerate() {
        if index > 0 {
            parts.push(Part::One('/'));
        }
        if segment == "+" {
            parts.extend([Part::Within, Part::Segment]);
            continue;
        }
        let (mut rest, mut at) = (segment, 0);
        while let Some(c) = rest[at..].chars().next() {
            match c {
                '*' => parts.push(Part::Any),
                '{' if rest[at..].starts_with("{{") => {
                    parts.push(Part::Any);
                    rest = rest[at..].split_once("}}").map_or("", |(_, behind)| behind);
                    at = 0;
                    continue;
                }
                other => parts.push(Part::One(other)),
            }
            at += c.len_utf8();
        }
    }
    parts
}

/// Whether some path is matched by both.
fn overlap(a: &[Part], b: &[Part]) -> bool {
    // below[j]: whether what is left of `a` under this row, and b[j..], have a path in common.
    let mut below: Vec<bool> = Vec::new();
    for i in (0..=a.len()).rev() {
        let mut row = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(star @ (Part::Any | Part::Segment)), other) => {
                    below[j] || other.is_some_and(|other| takes(*star, *other) && row[j + 1])
                }
                (one, Some(star @ (Part::Any | Part::Segment))) => {
                    row[j + 1] || one.is_some_and(|one| takes(*star, *one) && below[j])
                }
                (Some(one), Some(other)) => meets(*one, *other) && below[j + 1],
                (None, Some(_)) | (Some(_), None) => false,
            };
        }
        below = row;
    }
    below[0]
}

/// Whether a star can take what the other part stands for.
fn takes(star: Part, other: Part) -> bool {
    star == Part::Any || other != Part::One('/')
}

fn meets(a: Part, b: Part) -> bool {
    match (a, b) {
        (Part::One(a), Part::One(b)) => a == b,
        (Part::One(c), _) | (_, Part::One(c)) => c != '/',
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts() -> Vec<Mount> {
        let mount = |path: &str, engine: &str| Mount { path: path.to_owned(), engine: engine.to_owned() };
        vec![
            mount("secret/", "kv"),
            mount("pg-prod/", "database"),
            mount("clouds/aws/", "aws"),
            mount("gcp/", "gcp"),
        ]
    }

    fn stanza(path: &str, capability: &str) -> Stanza {
        Stanza { path: path.to_owned(), capabilities: vec![capability.to_owned()] }
    }

    #[test]
    fn what_outlives_the_token_is_found_under_any_wildcard_and_mount() {
        for path in [
            "auth/jwt/login",
            "auth/userpass/login/ann",
            "auth/+/login",
            "auth/*",
            "auth/approle/role/web/secret-id",
            "auth/approle/role/+/secret-id",
            "auth/token/create",
            "auth/token/create-orphan",
            "auth/token/cr*",
            "/auth/token/create/dayfly-x",
            "AUTH/token/create",
            "*",
            "+/+/login",
            "sys/wrapping/wrap",
            "sys/*",
            "identity/oidc/token/web",
            "pg-prod/static-creds/app",
            "pg-prod/*",
            "pg-prod/+/app",
            "clouds/aws/creds/deploy",
            "clouds/+/sts/deploy",
            "gcp/roleset/x/token",
            "{{identity.entity.name}}/static-creds/app",
        ] {
            let found = within(&[stanza(path, "read")], &mounts());
            assert_eq!(found.len(), 1, "{path}: {found:?}");
        }
    }

    #[test]
    fn plain_reads_dynamic_secrets_and_closed_paths_are_not() {
        for path in [
            "secret/data/kb/*",
            "secret/*",
            "secret/data/static-creds/app",
            "pg-prod/creds/app",
            "pki/issue/web",
            "transit/encrypt/*",
            "auth/token/lookup-self",
            "auth/token/renew-self",
            "sys/leases/renew",
            "static-creds/app",
        ] {
            assert_eq!(within(&[stanza(path, "update")], &mounts()), [], "{path}");
        }
        for capability in ["deny", "list", "delete"] {
            assert_eq!(within(&[stanza("auth/token/create", capability)], &mounts()), [], "{capability}");
        }
        let denied = Stanza { capabilities: vec!["update".into(), "deny".into()], ..stanza("auth/*", "x") };
        assert_eq!(within(&[denied], &mounts()), []);
        assert_eq!(within(&[stanza("auth/*", "write")], &mounts()).len(), 1, "as older policies say it");
    }
}
