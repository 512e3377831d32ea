//! Audiences of access tokens, and those that no access token may ever have.

use std::collections::BTreeSet;

use dayfly_domain::spiffe::SpiffeId;

use crate::public::Issuers;
use crate::public::issuers::check_url;

/// Hosts where a JWT is traded for a cloud session. Whoever holds a token for one chooses that session himself.
const TRADERS: [&str; 9] = [
    "iam.amazonaws.com",
    "sts.amazonaws.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "sts.googleapis.com",
    "login.microsoftonline.com",
    "sts.windows.net",
    "api.openai.com",
    "api.anthropic.com",
];

/// What is reserved: every audience that federation assertions go to, and the broker's own names.
#[derive(Clone, Debug)]
pub struct Reserved {
    issuers: Issuers,
    broker: SpiffeId,
    federation: BTreeSet<String>,
}

impl Reserved {
    /// From the broker's own names and every audience that its other providers mint assertions for.
    pub fn new(
        issuers: Issuers,
        broker: SpiffeId,
        federation_audiences: impl IntoIterator<Item = String>,
    ) -> Self {
        let federation = federation_audiences.into_iter().map(|audience| plain(&audience)).collect();
        Self { issuers, broker, federation }
    }

    /// Why an access token may not be for this audience, if it may not.
    pub(crate) fn fault(&self, audience: &str) -> Option<String> {
        if audience.contains(['{', '}', '$']) {
            return Some("an audience takes no parameters: write a scope for each service".to_owned());
        }
        let is_spiffe = audience.parse::<SpiffeId>().is_ok();
        if audience.len() > 512 || !(is_spiffe || check_url(audience) == Some(true)) {
            return Some(
                "an audience is the service's SPIFFE ID, or an https URL in lower-case host, without user, query, \
                 fragment, escapes or default port; at most 512 bytes"
                    .to_owned(),
            );
        }
        // `?via=` never gets here: a query is in neither form.
        if audience == self.broker.as_str() || self.issuers.own(audience) {
            return Some("this is the broker itself; its tokens are not for it".to_owned());
        }
        if self.federation.contains(&plain(audience)) || is_trader(audience) {
            return Some("clouds take tokens for this audience; it is kept for federation".to_owned());
        }
        None
    }
}

/// One spelling for the comparison: clouds differ in whether they mind case and a trailing slash.
fn plain(audience: &str) -> String {
    audience.trim().trim_end_matches('/').to_ascii_lowercase()
}

fn is_trader(audience: &str) -> bool {
    let Some(rest) = audience.strip_prefix("https://") else { return false };
    let host = rest.split(['/', ':']).next().unwrap_or_default();
    let regional_sts =
        host.starts_with("sts.") && (host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"));
    regional_sts || TRADERS.contains(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserved() -> Reserved {
        Reserved::new(
            Issuers::new("https://issuer.example/dayfly").expect("a base"),
            "spiffe://example.org/dayfly/broker".parse().expect("an id"),
            ["sts.amazonaws.com".to_owned(), "https://Cloud.example/sts/".to_owned()],
        )
    }

    #[test]
    fn a_service_is_named_by_its_spiffe_id_or_its_https_url() {
        for audience in [
            "spiffe://example.org/tool/search",
            "https://search.example",
            "https://search.example:8443/mcp",
            "https://issuer.example/search",
            "https://notamazonaws.com",
        ] {
            assert_eq!(reserved().fault(audience), None, "{audience}");
        }
    }

    #[test]
    fn no_access_token_is_for_a_cloud_or_for_the_broker() {
        for audience in [
            "",
            "search",
            "http://search.example",
            "http://127.0.0.1:8080",
            "sts.amazonaws.com",
            "https://sts.amazonaws.com",
            "https://sts.eu-west-1.amazonaws.com",
            "https://iam.googleapis.com/projects/1/locations/global",
            "//iam.googleapis.com/projects/1",
            "api://AzureADTokenExchange",
            "https://cloud.example/sts",
            "https://cloud.example/STS",
            "https://issuer.example/dayfly",
            "https://issuer.example/dayfly/",
            "https://issuer.example/dayfly/access",
            "https://issuer.example/dayfly/federation",
            "https://issuer.example/dayfly/receipt",
            "spiffe://example.org/dayfly/broker",
            "spiffe://example.org/dayfly/broker?via=spiffe://example.org/node/a",
            "spiffe://example.org",
            "https://{service}",
            "spiffe://example.org/tool/{tool}",
        ] {
            assert!(reserved().fault(audience).is_some(), "{audience}");
        }
    }
}
