//! What policies took away, in AWS's own terms: `Deny` statements in the session policy, session tags, and a life that a
//! session can have.
//!
//! Nothing of it is ever left out: what does not fit is refused before a lease is opened.

use std::collections::BTreeMap;

use dayfly_domain::policy::Narrowing;
use serde_json::Value;

use super::policy::LONGEST_POLICY;
use super::target::SHORTEST_SESSION;

/// AWS, "Pass session tags in AWS STS": at most 50 tags of a session. Three are kept for our own.
const MOST_TAGS: usize = 47;
/// botocore, `sts/2011-06-15`, `tagKeyType`.
const LONGEST_KEY: usize = 128;
/// botocore, `sts/2011-06-15`, `tagValueType`.
const LONGEST_VALUE: usize = 256;

/// Elements of a statement that can only deny. A session policy names no principal.
const ELEMENTS: [&str; 7] = ["Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"];

/// Whether a session with this rendered session policy can be narrowed so.
pub(super) fn check(session_policy: &Value, narrowing: &Narrowing) -> Result<(), String> {
    policy(session_policy, &narrowing.deny_statements).map(drop)?;
    check_tags(&narrowing.tags)?;
    match narrowing.max_ttl.filter(|most| *most < SHORTEST_SESSION) {
        None => Ok(()),
        Some(most) => Err(format!(
            "a policy gives credentials {most} at most; AWS sessions last at least {SHORTEST_SESSION}"
        )),
    }
}

/// The session policy with the statements at its end, as it is sent.
pub(super) fn policy(session_policy: &Value, statements: &[Value]) -> Result<String, String> {
    if let Some(problem) = statements.iter().find_map(|statement| only_denies(statement).err()) {
        return Err(format!("a policy's deny statement {problem}"));
    }
    let mut whole = session_policy.clone();
    if !statements.is_empty() {
        let own = match whole.get_mut("Statement").map(Value::take) {
            Some(Value::Array(own)) => own,
            Some(one @ Value::Object(_)) => vec![one],
            _ => return Err("the session policy has no statements".to_owned()),
        };
        whole["Statement"] = own.into_iter().chain(statements.iter().cloned()).collect();
    }
    let text = whole.to_string();
    let length = text.chars().count();
    match length > LONGEST_POLICY {
        true => Err(format!("the session policy has {length} characters and AWS takes {LONGEST_POLICY}")),
        false => Ok(text),
    }
}

fn only_denies(statement: &Value) -> Result<(), String> {
    let fields = statement.as_object().ok_or("is no mapping")?;
    if fields.get("Effect").and_then(Value::as_str) != Some("Deny") {
        return Err("does not deny".to_owned());
    }
    if let Some(other) = fields.keys().find(|key| !ELEMENTS.contains(&key.as_str())) {
        return Err(format!("has an element {other:?}"));
    }
    for [plain, negated] in [["Action", "NotAction"], ["Resource", "NotResource"]] {
        if fields.contains_key(plain) == fields.contains_key(negated) {
            return Err(format!("needs one of {plain} and {negated}"));
        }
    }
    // botocore, `sessionPolicyDocumentType`.
    match statement.to_string().chars().all(|c| ('\u{20}'..='\u{ff}').contains(&c)) {
        true => Ok(()),
        false => Err("has characters beyond U+00FF, which AWS does not take".to_owned()),
    }
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), String> {
    if tags.len() > MOST_TAGS {
        return Err(format!("policies set {} tags and a session takes {MOST_TAGS} of them", tags.len()));
    }
    let mut seen = Vec::new();
    for (key, value) in tags {
        // AWS tells keys apart without their case.
        let folded = key.to_lowercase();
        if folded.starts_with("dayfly") || folded.starts_with("aws:") {
            return Err(format!("a policy sets the tag {key:?}, which is not a policy's to set"));
        }
        if seen.contains(&folded) {
            return Err(format!("policies set the tag {key:?} twice"));
        }
        let (length, most) = (key.chars().count(), value.chars().count());
        if !(1..=LONGEST_KEY).contains(&length) || most > LONGEST_VALUE || !is_plain(key) || !is_plain(value)
        {
            return Err(format!("a policy sets the tag {key:?}, which AWS does not take"));
        }
        seen.push(folded);
    }
    Ok(())
}

/// botocore, `tagKeyType` and `tagValueType`: `[\p{L}\p{Z}\p{N}_.:/=+\-@]*`, here without the spaces beyond the usual one.
fn is_plain(text: &str) -> bool {
    text.chars().all(|c| c.is_alphanumeric() || " _.:/=+-@".contains(c))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading() -> Value {
        json!({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::corpora/*"},
        ]})
    }

    fn statement() -> Value {
        json!({"Effect": "Deny", "Action": "s3:*", "NotResource": "arn:aws:s3:::corpora/public/*"})
    }

    #[test]
    fn deny_statements_stand_at_the_end_and_nothing_else_changes() {
        let narrowed = policy(&reading(), &[statement()]).expect("fits");
        let narrowed: Value = serde_json::from_str(&narrowed).expect("JSON");
        assert_eq!(narrowed["Statement"], json!([reading()["Statement"][0], statement()]));
        assert_eq!(narrowed["Version"], "2012-10-17");
        let single = json!({"Version": "2012-10-17", "Statement": reading()["Statement"][0]});
        let narrowed = policy(&single, &[statement(), statement()]).expect("fits");
        let narrowed: Value = serde_json::from_str(&narrowed).expect("JSON");
        assert_eq!(narrowed["Statement"].as_array().map(Vec::len), Some(3));
        assert_eq!(
            policy(&single, &[]).expect("fits"),
            r#"{"Statement":{"Action":"s3:GetObject","Effect":"Allow","Resource":"arn:aws:s3:::corpora/*"},"Version":"2012-10-17"}"#,
            "untouched, and without a space"
        );
        let mut long = reading();
        long["Statement"][0]["Resource"] = json!(["arn:aws:s3:::a"; 200].to_vec());
        assert!(policy(&long, &[]).is_err());
    }

    #[test]
    fn what_does_not_deny_or_does_not_fit_is_refused_and_never_left_out() {
        let with = |key: &str, value: Value| {
            let mut changed = statement();
            changed[key] = value;
            changed
        };
        for changed in [
            json!("x"),
            with("Effect", json!("Allow")),
            with("effect", json!("Deny")),
            with("Principal", json!("*")),
            with("NotAction", json!("s3:x")),
            with("Resource", json!("*")),
            with("Condition", json!({"StringEquals": {"aws:x": "λ"}})),
            json!({"Effect": "Deny", "Action": "s3:*"}),
            with("Condition", json!({"StringEquals": {"aws:x": "y".repeat(2_000)}})),
        ] {
            let statements = vec![statement(), changed];
            let narrowing = Narrowing { deny_statements: statements, ..Narrowing::default() };
            assert!(check(&reading(), &narrowing).is_err(), "{narrowing:?}");
        }
        assert!(policy(&json!({"Version": "2012-10-17"}), &[statement()]).is_err());
    }

    #[test]
    fn a_life_that_no_session_is_as_short_as_is_refused() {
        let at_most = |seconds| {
            let max_ttl = Some(dayfly_domain::time::Ttl::seconds(seconds));
            check(&reading(), &Narrowing { max_ttl, ..Narrowing::default() })
        };
        assert_eq!((at_most(900), at_most(7_200)), (Ok(()), Ok(())));
        assert!(at_most(899).expect_err("no session is as short").contains("at least 15m"));
    }

    #[test]
    fn tags_never_touch_ours_and_are_those_that_aws_takes() {
        let tags = |pairs: &[(&str, &str)]| {
            let tags = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            check(&reading(), &Narrowing { tags, ..Narrowing::default() })
        };
        assert_eq!(tags(&[("team", "data"), ("cost:centre", "a b/c=1@x")]), Ok(()));
        for pairs in [
            &[("dayfly-scope", "x")][..],
            &[("Dayfly-Task", "x")],
            &[("AWS:x", "x")],
            &[("team", "x"), ("Team", "y")],
            &[("", "x")],
            &[("team", "*")],
            &[("te,am", "x")],
            &[("x".repeat(129).as_str(), "x")],
            &[("team", "x".repeat(257).as_str())],
        ] {
            assert!(tags(pairs).is_err(), "{pairs:?}");
        }
        let many: Vec<(String, &str)> = (0..48).map(|number| (format!("t{number}"), "x")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        assert!(tags(&many).is_err() && tags(&many[1..]).is_ok());
    }
}
