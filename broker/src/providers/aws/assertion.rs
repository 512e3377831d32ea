//! The web identity token: who asks AWS, for which role, under which lease. Made for one call; it never leaves this process
//! but to STS.

use std::collections::BTreeMap;

use dayfly_domain::id::{LeaseId, TaskId};
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::{Value, json};
use thiserror::Error;

/// How long an assertion can be traded. It also bounds how late STS can act on a request that was held up on its way.
pub const LIFE: Ttl = Ttl::minutes(2);

/// Session tag with the scope's name. One role per scope: the role's trust policy names it.
pub(super) const SCOPE_TAG: &str = "dayfly-scope";
/// Session tag with the slot: names the session in its role's deny document.
pub(super) const SLOT_TAG: &str = dayfly_domain::aws_deny::SLOT_TAG;
/// Session tag with the task's id.
pub(super) const TASK_TAG: &str = "dayfly-task";

/// botocore, `sts/2011-06-15`, `webIdentitySubjectType`: 6 to 255 characters.
const LONGEST_SUBJECT: usize = 255;

/// What an assertion says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assertion<'a> {
    /// Our federation issuer.
    pub(super) issuer: &'a str,
    /// Whom it is for.
    pub(super) audience: &'a str,
    /// The workload that the session is for.
    pub(super) subject: &'a str,
    /// The one role it can be traded for.
    pub(super) role_arn: &'a str,
    /// The lease.
    pub(super) lease: LeaseId,
    /// The task.
    pub(super) task: TaskId,
    /// Name of the scope.
    pub(super) scope: &'a str,
    /// The slot, where the role is one whose sessions are denied.
    pub(super) slot: Option<&'a str>,
    /// Tags that policies set beside ours; they are not transitive.
    pub(super) tags: &'a BTreeMap<String, String>,
    /// The moment of the decision.
    pub(super) now: Timestamp,
}

/// AWS takes no subject that long.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "the SPIFFE ID has {0} characters and AWS takes at most {LONGEST_SUBJECT}; give the workload a shorter one"
)]
pub(super) struct SubjectTooLong(usize);

impl Assertion<'_> {
    /// The claims. AWS takes tags and source identity from the token alone: the call has no parameter for them (AWS, "Pass
    /// session tags in AWS STS", AssumeRoleWithWebIdentity).
    pub(super) fn claims(&self) -> Result<Value, SubjectTooLong> {
        let subject = self.subject;
        if subject.len() > LONGEST_SUBJECT {
            return Err(SubjectTooLong(subject.len()));
        }
        let mut tags: BTreeMap<&str, [&str; 1]> =
            self.tags.iter().map(|(key, value)| (key.as_str(), [value.as_str()])).collect();
        let task = self.task.to_string();
        // Last, so that nothing stands in their place.
        tags.extend([(SCOPE_TAG, [self.scope]), (TASK_TAG, [task.as_str()])]);
        tags.extend(self.slot.map(|slot| (SLOT_TAG, [slot])));
        let ours = [SCOPE_TAG, TASK_TAG].into_iter().chain(self.slot.map(|_| SLOT_TAG));
        Ok(json!({
            "iss": self.issuer,
            "sub": subject,
            "aud": self.audience,
            "iat": self.now.unix_seconds(),
            "exp": (self.now + LIFE).unix_seconds(),
            "jti": self.lease,
            "https://aws.amazon.com/tags": {
                "principal_tags": tags,
                "transitive_tag_keys": ours.collect::<Vec<_>>(),
            },
            // The chain is found by the lease: a source identity has at most 64 of [\w+=,.@-], too little for a SPIFFE ID.
            "https://aws.amazon.com/source_identity": self.lease,
            // STS refuses every other role before it looks at trust policies.
            "https://aws.amazon.com/roles": [self.role_arn],
        }))
    }

    /// The claims of an assertion that ran out before it was made: no STS that checks anything trades it.
    pub(super) fn expired(&self) -> Result<Value, SubjectTooLong> {
        Assertion { now: self.now - Ttl::hours(1), ..*self }.claims()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_names_workload_role_lease_task_and_scope_and_lives_two_minutes() {
        let now = Timestamp::from_unix_seconds(1_700_000_000);
        let (lease, task) = (LeaseId::new(now, 1), TaskId::new(now, 2));
        let tags =
            [("team".to_owned(), "data".to_owned()), (TASK_TAG.to_owned(), "another".to_owned())].into();
        let assertion = Assertion {
            issuer: "https://issuer.example/federation",
            audience: "sts.amazonaws.com",
            subject: "spiffe://example.org/train/job-42",
            slot: None,
            role_arn: "arn:aws:iam::111122223333:role/dayfly-s3-train-read",
            lease,
            task,
            scope: "s3-train-read",
            tags: &tags,
            now,
        };
        let claims = json!({
            "iss": "https://issuer.example/federation",
            "sub": "spiffe://example.org/train/job-42",
            "aud": "sts.amazonaws.com",
            "iat": 1_700_000_000,
            "exp": 1_700_000_120,
            "jti": lease.to_string(),
            "https://aws.amazon.com/tags": {
                "principal_tags": {
                    "dayfly-scope": ["s3-train-read"], "dayfly-task": [task.to_string()], "team": ["data"],
                },
                "transitive_tag_keys": ["dayfly-scope", "dayfly-task"],
            },
            "https://aws.amazon.com/source_identity": lease.to_string(),
            "https://aws.amazon.com/roles": ["arn:aws:iam::111122223333:role/dayfly-s3-train-read"],
        });
        assert_eq!(assertion.claims(), Ok(claims));
        let denied = Assertion { slot: Some("aB-"), ..assertion }.claims().expect("short");
        let tags = &denied["https://aws.amazon.com/tags"];
        assert_eq!(tags["principal_tags"]["dayfly-slot"], json!(["aB-"]));
        assert_eq!(tags["transitive_tag_keys"], json!(["dayfly-scope", "dayfly-task", "dayfly-slot"]));
        assert_eq!(assertion.expired().expect("short")["exp"], 1_700_000_120 - 3600);
        let long = format!("spiffe://example.org/{}", "a".repeat(240));
        assert_eq!(Assertion { subject: &long, ..assertion }.claims(), Err(SubjectTooLong(261)));
    }
}
