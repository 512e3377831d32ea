//! `Debug` for messages that carry secrets: the field is named, its value is dots.

use std::fmt::{self, Debug, Formatter};

use crate::v1;

/// Stands where a secret would; an absent secret shows as such.
struct Dots<'a>(&'a str);

impl Debug for Dots<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "absent" } else { "···" })
    }
}

macro_rules! redacted {
    ($message:ident: [$($secret:ident),*], $($open:ident),*) => {
        impl Debug for v1::$message {
            fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($secret), &Dots(&self.$secret)))*
                    $(.field(stringify!($open), &self.$open))*
                    .finish()
            }
        }
    };
}

redacted!(AwsCredential: [access_key_id, secret_access_key, session_token], region);
redacted!(VaultCredential: [token], address);
redacted!(TokenCredential: [access_token], token_type, audience);
redacted!(OpenTaskRequest: [subject_token], parent_task_id, ceiling, max_duration, anchor, intent, labels);
redacted!(DelegateTaskRequest: [subject_token, task_key], task_id, spiffe_id, ceiling, max_duration, claim_within, intent, labels);
redacted!(ClaimTaskRequest: [subject_token], task_id, anchor, labels);
redacted!(EndTaskRequest: [subject_token, task_key], task_id);
redacted!(AuthorizeRequest: [subject_token, task_key], task_id, action, artifact, receipt_audience);
redacted!(
    AuthorizeResponse: [receipt],
    decision_id,
    scope,
    digest_pinned,
    valid_until,
    revision,
    rules_digest
);
redacted!(IssueCredentialRequest: [subject_token, task_key], task_id, scope, ttl);
redacted!(RenewLeaseRequest: [subject_token, task_key], task_id, lease_id);
redacted!(RevokeLeaseRequest: [subject_token, task_key], task_id, lease_id);
redacted!(WatchTaskRequest: [subject_token, task_key], task_id);

impl Debug for v1::OpenTaskResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenTaskResponse")
            .field("task_id", &self.task_id)
            .field("session_id", &self.session_id)
            .field("deadline", &self.deadline)
            .field("task_key", &Dots(&self.task_key))
            // Values may be placeholders that a thief could use; names are enough.
            .field("environment", &self.environment.keys())
            .finish()
    }
}

impl Debug for v1::ClaimTaskResponse {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimTaskResponse")
            .field("task_id", &self.task_id)
            .field("session_id", &self.session_id)
            .field("deadline", &self.deadline)
            .field("task_key", &Dots(&self.task_key))
            .field("environment", &self.environment.keys())
            .field("ceiling", &self.ceiling)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_prints_as_dots() {
        let shown = format!("{:?}", v1::VaultCredential { token: "hvs.secret".into(), address: "a".into() });
        assert!(!shown.contains("hvs.secret"), "{shown}");
        let shown =
            format!("{:?}", v1::IssueCredentialRequest { subject_token: "eyJ".into(), ..Default::default() });
        assert!(!shown.contains("eyJ"), "{shown}");
    }
}
