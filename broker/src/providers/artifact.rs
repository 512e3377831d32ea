//! Scopes without a credential: what may be done with an artifact. `Authorize` decides on them, records it, and signs a
//! receipt where a guard wants one; there is nothing to issue and nothing to take back.

use async_trait::async_trait;
use dayfly_domain::artifact;
use dayfly_domain::lease::Lease;
use dayfly_domain::policy::Narrowing;
use dayfly_domain::scope::{Promise, Revocability, Scope};
use dayfly_domain::template::TemplateFault;
use dayfly_domain::time::{Timestamp, Ttl};
use serde_json::Value;

use super::{IssueError, Issued, Order, Provider, Renewal, Revocation, RevokeError};
use crate::receipts::LONGEST_LIFE;

/// The provider's name.
pub const NAME: &str = artifact::PROVIDER;

/// Decisions about artifacts, among the providers.
#[derive(Clone, Copy, Debug)]
pub struct ArtifactProvider;

#[async_trait]
impl Provider for ArtifactProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn gives_credentials(&self) -> bool {
        false
    }

    fn check_scope(&self, scope: &Scope) -> Vec<TemplateFault> {
        artifact::faults(scope)
    }

    async fn probe_scope(&self, _: &Scope) -> Vec<TemplateFault> {
        // There is no target: the broker itself answers.
        Vec::new()
    }

    fn promise(&self, scope: &Scope) -> Promise {
        // A guard asks nobody about a receipt, so one that is out is good until it runs out.
        Promise::of(scope, Revocability::ExpiryOnly, self.residue(scope, scope.ttl.max))
    }

    fn is_local(&self) -> bool {
        true
    }

    fn residue(&self, _: &Scope, ttl: Ttl) -> Ttl {
        ttl.min(LONGEST_LIFE)
    }

    fn can_narrow(&self, _: &Value, narrowing: &Narrowing) -> Result<(), String> {
        if !narrowing.deny_statements.is_empty() {
            return Err(
                "a policy sets deny statements; an action on an artifact has no session policy".to_owned()
            );
        }
        if !narrowing.tags.is_empty() {
            return Err(
                "a policy sets tags; an action on an artifact has no credential that carries them".to_owned()
            );
        }
        Ok(())
    }

    async fn issue(&self, _: &Order<'_>) -> Result<Issued, IssueError> {
        Err(no_credential())
    }

    fn renewal(&self, _: &Scope) -> Renewal {
        Renewal::Reissue
    }

    async fn extend(&self, _: &Lease, _: &Scope, _: Ttl, _: Timestamp) -> Result<Timestamp, IssueError> {
        Err(no_credential())
    }

    async fn revoke(&self, _: &Lease, _: Timestamp) -> Result<Revocation, RevokeError> {
        Ok(Revocation::RunsOut)
    }
}

fn no_credential() -> IssueError {
    let what = "the scope has no credential; ask Authorize".to_owned();
    IssueError::Refuse { provider: NAME, what, source: None }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::providers::token::testkit::scope;

    #[test]
    fn a_minute_is_promised_and_less_where_the_scope_says_so() {
        let mut loads = scope(json!({"actions": ["load-model"], "name": "models/{dataset}"}));
        assert_eq!(ArtifactProvider.check_scope(&loads), []);
        let promised = |scope: &Scope| {
            let promise = ArtifactProvider.promise(scope);
            (promise.revocability, promise.worst_case_after_end)
        };
        assert_eq!(promised(&loads), (Revocability::ExpiryOnly, Ttl::minutes(1)));
        loads.ttl.max = Ttl::seconds(10);
        assert_eq!(promised(&loads), (Revocability::ExpiryOnly, Ttl::seconds(10)));
    }

    #[test]
    fn a_narrowing_that_nothing_could_carry_is_refused() {
        let narrow = |narrowing: &Narrowing| ArtifactProvider.can_narrow(&Value::Null, narrowing);
        let shorter = Narrowing { max_ttl: Some(Ttl::seconds(5)), ..Narrowing::default() };
        assert_eq!(narrow(&shorter), Ok(()), "time is cut in the decision");
        let denies = Narrowing { deny_statements: vec![json!({})], ..Narrowing::default() };
        let tags = Narrowing { tags: [("team".to_owned(), "a".to_owned())].into(), ..Narrowing::default() };
        assert!(narrow(&denies).is_err() && narrow(&tags).is_err());
    }
}
