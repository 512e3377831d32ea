//! The facts of one request, as condition keys (AWS, "AWS global condition context keys", "IAM and AWS STS condition
//! context keys").

use std::collections::BTreeMap;

use super::PolicyError;

/// Keys with one value.
const SINGLE: [&str; 15] = [
    "aws:CurrentTime",
    "aws:EpochTime",
    "aws:FederatedProvider",
    "aws:PrincipalAccount",
    "aws:PrincipalArn",
    "aws:PrincipalType",
    "aws:RequestedRegion",
    "aws:SourceIdentity",
    "aws:TokenIssueTime",
    "aws:userid",
    "iam:PermissionsBoundary",
    "s3:prefix",
    "sts:RoleAuthorizedByIdp",
    "sts:RoleSessionName",
    "sts:SourceIdentity",
];
/// Keys with any number of values. AWS wants `ForAllValues:` or `ForAnyValue:` before their operators.
const MULTIPLE: [&str; 2] = ["aws:TagKeys", "sts:TransitiveTagKeys"];
/// Keys that end in the name of a tag.
const TAGS: [&str; 2] = ["aws:PrincipalTag/", "aws:RequestTag/"];
/// What a web identity token says, behind the name of its provider (AWS, "Keys for AWS OIDC federation").
const CLAIMS: [&str; 2] = [":aud", ":sub"];

/// The name of a key, which AWS tells apart without its case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(String);

impl Key {
    /// # Errors
    /// A key that this evaluator has no meaning for.
    pub(super) fn parse(name: &str) -> Result<Self, PolicyError> {
        let same = |known: &str| known.eq_ignore_ascii_case(name);
        let lower = name.to_lowercase();
        let is_tag = TAGS
            .iter()
            .any(|start| lower.strip_prefix(&start.to_lowercase()).is_some_and(|tag| !tag.is_empty()));
        // The name of a provider is a host, and perhaps a path: no key of a service looks like that.
        let is_claim =
            CLAIMS.iter().any(|end| lower.strip_suffix(end).is_some_and(|host| host.contains('.')));
        match SINGLE.iter().any(|key| same(key)) || MULTIPLE.iter().any(|key| same(key)) || is_tag || is_claim
        {
            true => Ok(Self(lower)),
            false => PolicyError::unknown(format!("the condition key {name:?}")),
        }
    }

    /// Whether a request may have several values for it.
    pub(super) fn is_multiple(&self) -> bool {
        MULTIPLE.iter().any(|key| key.eq_ignore_ascii_case(&self.0))
    }
}

/// The keys of one request and their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context(BTreeMap<Key, Vec<String>>);

impl Context {
    /// Sets a key to one value.
    ///
    /// # Panics
    /// On a key that no policy could ask for: a mistake of this crate.
    #[must_use]
    pub fn with(self, key: &str, value: impl Into<String>) -> Self {
        self.with_all(key, [value.into()])
    }

    /// Sets a key to any number of values; to none, it is there and empty.
    ///
    /// # Panics
    /// As [`Context::with`].
    #[must_use]
    pub fn with_all(mut self, key: &str, values: impl IntoIterator<Item = String>) -> Self {
        let key = Key::parse(key).expect("a key of the table above");
        self.0.insert(key, values.into_iter().collect());
        self
    }

    /// Sets a key if there is a value.
    #[must_use]
    pub fn with_some(self, key: &str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// The values of a key; none if the request has no such key.
    pub(super) fn get(&self, key: &Key) -> Option<&[String]> {
        self.0.get(key).map(Vec::as_slice)
    }
}
