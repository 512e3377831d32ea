//! Holds a token role against the scope that names it: a role with one field short would give away the broker's power.

use std::collections::BTreeSet;

use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::Ttl;

use super::endpoints::TokenRole;
use super::target::Target;

/// Every way in which the role is wider than the scope says.
pub(super) fn faults(role: &TokenRole, target: &Target) -> Vec<TemplateFault> {
    let mut faults = Vec::new();
    let mut fault = |path: &str, problem: String| {
        let problem = format!("token role {:?}: {problem}", target.role);
        faults.push(TemplateFault { path: path.to_owned(), problem });
    };
    let allowed = role.allowed_policies.clone().unwrap_or_default();
    let disallowed = role.disallowed_policies.clone().unwrap_or_default();
    let globs = |globs: &Option<BTreeSet<String>>| globs.as_ref().is_some_and(|globs| !globs.is_empty());
    if allowed.is_empty() {
        let what = if disallowed.is_empty() && !globs(&role.disallowed_policies_glob) {
            "it has no allowed_policies, so a token may get the broker's own"
        } else {
            "it only disallows policies, so a token may get any other"
        };
        fault("policies", format!("{what}; set allowed_policies to {}", list(&target.policies)));
    } else if allowed != target.policies {
        fault(
            "policies",
            format!("allowed_policies is {}, the scope says {}", list(&allowed), list(&target.policies)),
        );
    }
    if globs(&role.allowed_policies_glob) {
        fault("policies", "allowed_policies_glob must be empty: name each policy".to_owned());
    }
    if !role.token_no_default_policy && !disallowed.contains("default") {
        fault("policies", "it gives the default policy; set token_no_default_policy=true".to_owned());
    }
    if !role.orphan {
        fault("role", "its tokens die with the broker's login; set orphan=true".to_owned());
    }
    if role.token_type != "service" {
        fault("role", format!("token_type is {:?}; only a service token can be revoked", role.token_type));
    }
    if !role.renewable {
        fault("role", "its tokens cannot be renewed and would end after 30s; set renewable=true".to_owned());
    }
    if role.token_period != 0 || role.period != 0 {
        fault("role", "a periodic token ignores the short first life; set token_period=0".to_owned());
    }
    let longest = Ttl::seconds(role.token_explicit_max_ttl.max(role.explicit_max_ttl));
    if longest == Ttl::ZERO {
        let wanted = target.explicit_max_ttl;
        fault("explicit_max_ttl", format!("it has no token_explicit_max_ttl; set it to {wanted}"));
    } else if longest != target.explicit_max_ttl {
        let wanted = target.explicit_max_ttl;
        fault("explicit_max_ttl", format!("token_explicit_max_ttl is {longest}, the scope says {wanted}"));
    }
    faults
}

fn list(policies: &BTreeSet<String>) -> String {
    policies.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn target() -> Target {
        Target {
            role: "kb".into(),
            policies: set(&["kb-read"]),
            explicit_max_ttl: Ttl::hours(8),
            kinds: BTreeSet::new(),
        }
    }

    fn closed() -> TokenRole {
        TokenRole {
            allowed_policies: Some(set(&["kb-read"])),
            orphan: true,
            renewable: true,
            token_type: "service".into(),
            token_explicit_max_ttl: 8 * 3600,
            token_no_default_policy: true,
            ..TokenRole::default()
        }
    }

    #[test]
    fn a_closed_role_is_taken() {
        assert_eq!(faults(&closed(), &target()), []);
        let by_list = TokenRole {
            token_no_default_policy: false,
            disallowed_policies: Some(set(&["default"])),
            ..closed()
        };
        assert_eq!(faults(&by_list, &target()), []);
    }

    #[test]
    fn one_field_short_is_refused() {
        for (role, path, word) in [
            (TokenRole { allowed_policies: None, ..closed() }, "policies", "the broker's own"),
            (TokenRole { allowed_policies: Some(set(&[])), ..closed() }, "policies", "the broker's own"),
            (
                TokenRole { allowed_policies: None, disallowed_policies: Some(set(&["root"])), ..closed() },
                "policies",
                "only disallows",
            ),
            (
                TokenRole { allowed_policies: Some(set(&["kb-read", "kb-write"])), ..closed() },
                "policies",
                "kb-write",
            ),
            (TokenRole { allowed_policies_glob: Some(set(&["kb-*"])), ..closed() }, "policies", "glob"),
            (TokenRole { token_no_default_policy: false, ..closed() }, "policies", "default"),
            (TokenRole { orphan: false, ..closed() }, "role", "orphan"),
            (TokenRole { token_type: "batch".into(), ..closed() }, "role", "service"),
            (TokenRole { token_type: "default-service".into(), ..closed() }, "role", "service"),
            (TokenRole { renewable: false, ..closed() }, "role", "renewable"),
            (TokenRole { token_period: 60, ..closed() }, "role", "period"),
            (TokenRole { token_explicit_max_ttl: 0, ..closed() }, "explicit_max_ttl", "8h"),
            (TokenRole { token_explicit_max_ttl: 3600, ..closed() }, "explicit_max_ttl", "1h"),
        ] {
            let found = faults(&role, &target());
            assert_eq!(found.len(), 1, "{word}: {found:?}");
            assert!(found[0].path == path && found[0].problem.contains(word), "{word}: {found:?}");
        }
    }
}
