use super::*;
use crate::document;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn rules(max: &str) -> Rules {
    let yaml = format!(
        r#"
kind: Scope
metadata: {{name: prod-db}}
spec:
  stages: [tool]
  parameters: {{table: {{type: segment}}}}
  approval: {{max: {max}}}
  target: {{token: {{audience: "https://db"}}}}
---
kind: Scope
metadata: {{name: plain}}
spec: {{stages: [tool], target: {{token: {{audience: "https://plain"}}}}}}
"#
    );
    document::compile(1, &[], &document::parse(&yaml).0).expect("no faults")
}

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().expect("an id")
}

fn ask(scope: &str, parameters: &[(&str, &str)]) -> ScopeAsk {
    let owned = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ScopeAsk { scope: scope.into(), parameters: owned.collect() }
}

const LAPTOP: Host = Host::At(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)));
const DESK: Host = Host::At(IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)));

/// Asked for by ann on her laptop, for an hour.
fn request(rules: &Rules) -> ApprovalRequest {
    let (identity, ask, until) = (id("tool/t"), ask("prod-db", &[("table", "users")]), NOW + Ttl::hours(1));
    let words = ("OPS-1", "the nightly job broke");
    let digest = check_request(rules, &identity, &ask, until, words, NOW).expect("may be requested");
    ApprovalRequest {
        id: ApprovalId::new(NOW, 1),
        identity,
        ask,
        until,
        ticket: words.0.into(),
        reason: words.1.into(),
        digest,
        requested_at: NOW,
        requested_by: id("admin/ann"),
        requested_on: LAPTOP,
        verdict: None,
    }
}

fn said(request: &ApprovalRequest, said: Said) -> ApprovalRequest {
    let verdict = Verdict { said, at: NOW, by: id("admin/bob"), on: DESK };
    ApprovalRequest { verdict: Some(verdict), ..request.clone() }
}

#[test]
fn only_what_an_approval_could_allow_may_be_requested() {
    let rules = rules("2h");
    let wish = |ask: &ScopeAsk, lasts: i64, words: (&str, &str)| {
        let until = Timestamp::from_unix_millis(NOW.unix_millis() + lasts * 1000);
        check_request(&rules, &id("tool/t"), ask, until, words, NOW)
    };
    let users = ask("prod-db", &[("table", "users")]);
    assert!(wish(&users, 7200, ("", "why")).is_ok());
    assert_eq!(
        wish(&ask("nowhere", &[]), 60, ("", "why")),
        Err(NotRequestable::UnknownScope("nowhere".into()))
    );
    assert_eq!(wish(&ask("plain", &[]), 60, ("", "why")), Err(NotRequestable::NoneWanted("plain".into())));
    let faulty = [ask("prod-db", &[]), ask("prod-db", &[("table", "*")])];
    for ask in faulty {
        assert!(matches!(wish(&ask, 60, ("", "why")), Err(NotRequestable::Parameters(_))));
    }
    assert!(matches!(wish(&users, 0, ("", "why")), Err(NotRequestable::Past { .. })));
    assert!(matches!(wish(&users, 7201, ("", "why")), Err(NotRequestable::TooLong { .. })));
    let long = "x".repeat(513);
    for words in [("", ""), ("", " "), ("", "two\nlines"), ("a\tb", "why"), ("", long.as_str())] {
        assert_eq!(wish(&users, 60, words), Err(NotRequestable::Words));
    }
}

#[test]
fn a_yes_is_somebody_elses_from_somewhere_else_to_what_was_looked_at() {
    let rules = rules("2h");
    let request = request(&rules);
    let approve = |by: &str, on: Host, looked_at: &str, one_host: bool| {
        request.check_approve(&rules, &id(by), on, looked_at, one_host, NOW)
    };
    let digest = request.digest.as_str();
    assert_eq!(approve("admin/bob", DESK, digest, false), Ok(()));
    assert_eq!(approve("admin/bob", Host::Broker, digest, false), Ok(()));
    let same_person = || Err(NotApprovable::SamePerson(id("admin/ann")));
    assert_eq!(approve("admin/ann", DESK, digest, false), same_person());
    assert_eq!(approve("admin/ann", DESK, digest, true), same_person(), "no setting makes one person two");
    assert_eq!(approve("admin/bob", LAPTOP, digest, false), Err(NotApprovable::SameHost(LAPTOP)));
    assert_eq!(approve("admin/bob", LAPTOP, digest, true), Ok(()));
    for other in ["", "d1", &digest[1..]] {
        assert_eq!(approve("admin/bob", DESK, other, false), Err(NotApprovable::Changed));
    }
}

#[test]
fn what_is_over_or_changed_is_not_approved() {
    let before = rules("2h");
    let request = request(&before);
    let approve = |request: &ApprovalRequest, rules: &Rules, now: Timestamp| {
        request.check_approve(rules, &id("admin/bob"), DESK, &request.digest, false, now)
    };
    let changed = rules("3h");
    assert_eq!(approve(&request, &changed, NOW), Err(NotApprovable::Changed));
    let over = |standing| Err(NotApprovable::Over { id: ApprovalId::new(NOW, 1), standing });
    assert_eq!(approve(&request, &before, request.until), over(Standing::Lapsed));
    for (word, standing) in [
        (Said::Approved, Standing::Approved),
        (Said::Refused, Standing::Refused),
        (Said::Withdrawn, Standing::Withdrawn),
    ] {
        assert_eq!(approve(&said(&request, word), &before, NOW), over(standing));
    }
}

#[test]
fn only_an_approved_one_reaches_decisions_and_its_standing_tells_why_it_allows_nothing() {
    let (before, changed) = (rules("2h"), rules("3h"));
    let request = request(&before);
    let approved = said(&request, Said::Approved);
    assert_eq!(request.approval(), None);
    assert_eq!(said(&request, Said::Refused).approval(), None);
    assert_eq!(said(&request, Said::Withdrawn).approval(), None);
    let approval = approved.approval().expect("it was approved");
    for (rules, now, standing) in [
        (&before, NOW, Standing::Approved),
        (&before, request.until, Standing::Ended),
        (&changed, NOW, Standing::Void),
    ] {
        assert_eq!(approved.standing(rules, now), standing);
        let scope = rules.scope("prod-db").expect("it is there");
        let allows = approval.allows(&request.identity, &request.ask, &scope.digest, now);
        assert_eq!(allows, standing.is_live(), "{standing:?}");
    }
}

#[test]
fn a_host_reads_back_as_written() {
    for host in [Host::Broker, LAPTOP, Host::At("fd00::2".parse().expect("an address"))] {
        assert_eq!(host.to_string().parse(), Ok(host));
    }
}

#[test]
fn an_approval_changes_its_scope_and_the_digest_of_the_rules() {
    let before = rules("2h");
    let approval = said(&request(&before), Said::Approved).approval().expect("it was approved");
    let after = rules("2h").with_approvals(vec![approval]);
    assert_ne!(after.digest, before.digest);
    assert_eq!(after.scopes_unlike(&before), ["prod-db"]);
    let back = after.with_approvals(Vec::new());
    assert_eq!(back.digest, before.digest);
    assert!(back.scopes_unlike(&before).is_empty());
}
