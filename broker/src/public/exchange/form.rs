//! What a client posts to the token endpoint (RFC 8693 §2.1), read strictly: nothing twice, nothing half understood.

use std::collections::HashMap;

use dayfly_domain::parameter::{MAX_PARAMETERS, MAX_PATH, Parameters};
use dayfly_domain::scope::ScopeAsk;
use dayfly_domain::secret::Secret;

use super::details;
use super::refused::Fault;

/// RFC 8693 §2.1.
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
/// RFC 8693 §3.
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
/// draft-ietf-oauth-spiffe-client-auth §3.1.
const JWT_SPIFFE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe";
/// Most fields of a form. The exchange knows fewer than half of it.
const MAX_FIELDS: usize = 32;

/// A form, read.
#[derive(Debug)]
pub(super) struct Form {
    /// Who the client says it is. Proven or refused, never taken.
    pub client_id: Option<String>,
    /// A JWT-SVID that proves who the client is.
    pub assertion: Option<Secret>,
    /// The token that is exchanged.
    pub subject: Subject,
    /// Scope and values.
    pub ask: ScopeAsk,
    /// Whether they came as `authorization_details` (RFC 9396), so that the answer tells them that way.
    pub by_details: bool,
    /// The service the token must be for.
    pub audience: Option<String>,
}

/// The token that is exchanged, by what it stands for.
#[derive(Debug)]
pub(super) enum Subject {
    /// The client's own JWT-SVID: it acts for itself.
    Own(Secret),
    /// An access token of ours that somebody gave to the client: it acts on behalf of that one.
    Given(Secret),
}

impl Form {
    /// Reads the fields of a form.
    pub(super) fn read(fields: Vec<(String, String)>) -> Result<Self, Fault> {
        let mut fields = Fields::of(fields)?;
        if fields.demand("grant_type")? != GRANT_TYPE {
            let next = "use grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
            return Err(Fault::new(
                "unsupported_grant_type",
                "GRANT_TYPE_UNSUPPORTED",
                "no such grant here",
                next,
            ));
        }
        for name in ["actor_token", "actor_token_type"] {
            if fields.take(name).is_some() {
                let next = "leave actor_token out: the client itself is the actor";
                return Err(Fault::request("ACTOR_TOKEN_UNSUPPORTED", "actor tokens are not taken", next));
            }
        }
        if fields.take("resource").is_some() {
            let next = "leave `resource` out, and name the service as `audience` if you like";
            return Err(Fault::target("AUDIENCE_MISMATCH", "resources are not known here", next));
        }
        if fields.take("requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
            let next = "leave requested_token_type out";
            return Err(Fault::request("TOKEN_TYPE_UNSUPPORTED", "only access tokens are given", next));
        }
        let (ask, by_details) = read_ask(&mut fields)?;
        Ok(Self {
            assertion: read_assertion(&mut fields)?,
            subject: read_subject(&mut fields)?,
            client_id: fields.take("client_id"),
            audience: fields.take("audience"),
            ask,
            by_details,
        })
    }
}

fn read_assertion(fields: &mut Fields) -> Result<Option<Secret>, Fault> {
    match (fields.take("client_assertion_type"), fields.take("client_assertion")) {
        (None, None) => Ok(None),
        (Some(kind), Some(assertion)) if kind == JWT_SPIFFE => Ok(Some(Secret::new(assertion))),
        _ => Err(Fault::client(
            "CLIENT_ASSERTION_INVALID",
            "a client assertion is a JWT-SVID, and its type says so",
            "send client_assertion with client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-spiffe",
        )),
    }
}

fn read_subject(fields: &mut Fields) -> Result<Subject, Fault> {
    let kind = fields.demand("subject_token_type")?;
    let token = Secret::new(fields.demand("subject_token")?);
    match kind.as_str() {
        JWT => Ok(Subject::Own(token)),
        ACCESS_TOKEN => Ok(Subject::Given(token)),
        _ => Err(Fault::request(
            "TOKEN_TYPE_UNSUPPORTED",
            "subject tokens are the client's JWT-SVID, or an access token that was given to it",
            "use urn:ietf:params:oauth:token-type:jwt or urn:ietf:params:oauth:token-type:access_token",
        )),
    }
}

fn read_ask(fields: &mut Fields) -> Result<(ScopeAsk, bool), Fault> {
    let (ask, by_details) = match (fields.take("scope"), fields.take("authorization_details")) {
        (Some(scope), None) => (ScopeAsk { scope, parameters: Parameters::new() }, false),
        (None, Some(text)) => (details::read(&text)?, true),
        (None, None) | (Some(_), Some(_)) => {
            let next = "send either scope=NAME, or authorization_details with one dayfly_scope";
            return Err(Fault::request("SCOPE_MISSING", "one scope is wanted, said in one way", next));
        }
    };
    let too_long = |text: &String| text.len() > MAX_PATH;
    if ask.scope.is_empty() || too_long(&ask.scope) || ask.scope.contains(' ') {
        let next = "name one scope; ask again for another";
        return Err(Fault::new("invalid_scope", "SCOPE_MISSING", "a token is of one scope", next));
    }
    let parameters = &ask.parameters;
    if parameters.len() > MAX_PARAMETERS
        || parameters.iter().any(|(name, value)| too_long(name) || too_long(value))
    {
        return Err(details::fault(&format!(
            "at most {MAX_PARAMETERS} parameters of at most {MAX_PATH} bytes are taken"
        )));
    }
    Ok((ask, by_details))
}

/// Fields by name, each at most once.
struct Fields(HashMap<String, String>);

impl Fields {
    /// RFC 6749 §3.2: what has no value counts as left out; nothing comes twice. RFC 8693 lets audiences come several
    /// times, but a token of ours has one.
    fn of(pairs: Vec<(String, String)>) -> Result<Self, Fault> {
        if pairs.len() > MAX_FIELDS {
            return Err(Fault::form(&format!("at most {MAX_FIELDS} fields are taken")));
        }
        let mut fields = HashMap::new();
        for (name, value) in pairs {
            let shown: String = name.chars().take(32).collect();
            if fields.insert(name, value).is_some() {
                return Err(Fault::form(&format!("field {shown:?} comes twice")));
            }
        }
        fields.retain(|_, value| !value.is_empty());
        Ok(Self(fields))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    fn demand(&mut self, name: &str) -> Result<String, Fault> {
        self.take(name).ok_or_else(|| Fault::form(&format!("field {name} is missing")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: [(&str, &str); 5] = [
        ("grant_type", GRANT_TYPE),
        ("scope", "index-read"),
        ("subject_token_type", JWT),
        ("subject_token", "a.b.c"),
        ("unknown", "is ignored (RFC 6749 §3.2)"),
    ];

    /// The right form with these fields put in the place of its own; an empty one leaves it out.
    fn read(changes: &[(&str, &str)]) -> Result<Form, (&'static str, &'static str)> {
        let kept = RIGHT.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        let fields = kept.chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Form::read(fields.collect()).map_err(|fault| (fault.error, fault.reason))
    }

    #[test]
    fn a_form_asks_for_one_scope_by_name_or_in_detail() {
        let form = read(&[]).expect("the right form");
        assert_eq!((form.ask.scope.as_str(), form.by_details), ("index-read", false));
        assert!(form.assertion.is_none() && form.audience.is_none() && form.client_id.is_none());
        let details = r#"[{"type":"dayfly_scope","scope":"index-read","parameters":{"index":"idx-1"}}]"#;
        let form = read(&[("scope", ""), ("authorization_details", details)]).expect("in detail");
        assert_eq!(form.ask.parameters["index"], "idx-1");
        assert!(form.by_details);
        for (changes, expected) in [
            (vec![("scope", "")], ("invalid_request", "SCOPE_MISSING")),
            (vec![("authorization_details", details)], ("invalid_request", "SCOPE_MISSING")),
            (vec![("scope", "a b")], ("invalid_scope", "SCOPE_MISSING")),
            (vec![("scope", &"a".repeat(600))], ("invalid_scope", "SCOPE_MISSING")),
        ] {
            assert_eq!(read(&changes).map(|_| ()), Err(expected), "{changes:?}");
        }
    }

    #[test]
    fn what_is_not_this_exchange_is_refused_by_name() {
        let form = "FORM_INVALID";
        let many: Vec<(String, String)> = (0..40).map(|n| (format!("x{n}"), "y".to_owned())).collect();
        assert_eq!(Form::read(many).map(|_| ()).map_err(|fault| fault.reason), Err(form));
        for (changes, expected) in [
            (vec![("grant_type", "")], ("invalid_request", form)),
            (
                vec![("grant_type", "client_credentials")],
                ("unsupported_grant_type", "GRANT_TYPE_UNSUPPORTED"),
            ),
            (vec![("subject_token", "")], ("invalid_request", form)),
            (vec![("subject_token_type", "")], ("invalid_request", form)),
            (
                vec![("subject_token_type", "urn:ietf:params:oauth:token-type:saml2")],
                ("invalid_request", "TOKEN_TYPE_UNSUPPORTED"),
            ),
            (
                vec![("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
                ("invalid_request", "TOKEN_TYPE_UNSUPPORTED"),
            ),
            (vec![("actor_token", "a.b.c")], ("invalid_request", "ACTOR_TOKEN_UNSUPPORTED")),
            (vec![("actor_token_type", JWT)], ("invalid_request", "ACTOR_TOKEN_UNSUPPORTED")),
            (vec![("resource", "https://index.example")], ("invalid_target", "AUDIENCE_MISMATCH")),
            (vec![("client_assertion", "a.b.c")], ("invalid_client", "CLIENT_ASSERTION_INVALID")),
            (vec![("client_assertion_type", JWT_SPIFFE)], ("invalid_client", "CLIENT_ASSERTION_INVALID")),
            (
                vec![
                    ("client_assertion", "a.b.c"),
                    ("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"),
                ],
                ("invalid_client", "CLIENT_ASSERTION_INVALID"),
            ),
            // Twice is refused, also with one value, also where RFC 8693 would let it, also what nobody knows.
            (vec![("scope", "index-read"), ("scope", "index-read")], ("invalid_request", form)),
            (vec![("audience", "a"), ("audience", "b")], ("invalid_request", form)),
            (vec![("x", "a"), ("x", "")], ("invalid_request", form)),
        ] {
            assert_eq!(read(&changes).map(|_| ()), Err(expected), "{changes:?}");
        }
        assert!(read(&[("requested_token_type", ACCESS_TOKEN)]).is_ok());
    }
}
