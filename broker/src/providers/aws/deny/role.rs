//! Names of roles.

use std::fmt;
use std::str::FromStr;

/// `arn:PARTITION:iam::ACCOUNT:role/PATH/NAME` of a role that AWS itself keeps (IAM User Guide, "IAM identifiers").
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::providers::aws) struct RoleArn {
    text: String,
    /// `arn:PARTITION:iam::ACCOUNT:role/`.
    account: usize,
    /// Where the name begins.
    name: usize,
}

impl RoleArn {
    /// The whole.
    pub(in crate::providers::aws) fn as_str(&self) -> &str {
        &self.text
    }

    /// The name alone, as calls of IAM want it.
    pub(in crate::providers::aws) fn name(&self) -> &str {
        &self.text[self.name..]
    }

    /// Another role of the same account, by path and name.
    pub(in crate::providers::aws) fn sibling(&self, path_and_name: &str) -> String {
        format!("{}{path_and_name}", &self.text[..self.account])
    }
}

impl FromStr for RoleArn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let no_role = || format!("{text:?} is no role of an AWS account");
        let parts: Vec<&str> = text.splitn(6, ':').collect();
        let ["arn", partition, "iam", "", account, resource] = parts[..] else { return Err(no_role()) };
        let of_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
        let rest = resource.strip_prefix("role/").filter(|rest| !rest.is_empty() && !rest.ends_with('/'));
        let (true, Some(rest)) = (of_account && partition.starts_with("aws"), rest) else {
            return Err(no_role());
        };
        let name = rest.rsplit('/').next().unwrap_or(rest);
        Ok(Self { text: text.to_owned(), account: text.len() - rest.len(), name: text.len() - name.len() })
    }
}

impl fmt::Display for RoleArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_known_by_its_name_and_has_siblings_in_its_account() {
        let role: RoleArn = "arn:aws-cn:iam::111122223333:role/dayfly/pool/reader".parse().expect("a role");
        assert_eq!(role.name(), "reader");
        assert_eq!(role.sibling("dayfly/revoker"), "arn:aws-cn:iam::111122223333:role/dayfly/revoker");
        for text in [
            "arn:minio:iam:::role/x",
            "arn:aws:iam::111122223333:user/x",
            "arn:aws:iam::111122223333:role/",
            "x",
        ] {
            assert!(text.parse::<RoleArn>().is_err(), "{text}");
        }
    }
}
