use super::*;
use crate::stage::Stage;

const T0: Timestamp = Timestamp::from_unix_millis(1_000);

fn id(path: &str) -> SpiffeId {
    format!("spiffe://example.org/{path}").parse().expect("an id")
}

fn kill(target: Target, state: State) -> Kill {
    let asked = Word { by: "spiffe://example.org/admin/a".into(), on: Host::Broker, at: T0 };
    let id = KillId::new(T0, 7);
    Kill { id, target, reason: "leaked".into(), asked, approved: None, lifted: None, state }
}

fn stage_of(id: &SpiffeId) -> Option<Stage> {
    match id.segments().next() {
        Some("admin") => Some(Stage::Admin),
        Some("node") => Some(Stage::Node),
        _ => Some(Stage::Training),
    }
}

#[test]
fn a_target_reads_back_as_written_and_nothing_else_is_one() {
    let targets = [
        Target::Identity(id("train/a")),
        Target::Pattern("spiffe://example.org/train/**".parse().expect("a pattern")),
        Target::TrustDomain("example.org".into()),
        Target::Node(id("node/1")),
        Target::Scope("s3-train-read".into()),
        Target::Provider("aws".into()),
        Target::Everything,
    ];
    for target in targets {
        assert_eq!(Target::read(target.kind(), &target.name()), Ok(target));
    }
    for (kind, name) in [
        ("identity", "spiffe://example.org/train/*"),
        ("pattern", "spiffe://*/train"),
        ("trust_domain", "Example Org"),
        ("scope", ""),
        ("scope", "a\nb"),
        ("everything", "spiffe://example.org/a"),
        ("all", ""),
    ] {
        assert!(Target::read(kind, name).is_err(), "{kind} {name:?}");
    }
}

#[test]
fn wide_kills_leave_admins_and_nodes_and_exact_ones_do_not() {
    let wide = [
        Target::Everything,
        Target::TrustDomain("example.org".into()),
        Target::Pattern("spiffe://example.org/**".parse().expect("a pattern")),
    ];
    for target in wide {
        let kills = Kills::new([kill(target, State::Standing)]);
        assert!(kills.strike_identity(&id("train/a"), Some(Stage::Training)));
        assert!(kills.strike_identity(&id("unknown"), None));
        assert!(!kills.strike_identity(&id("admin/a"), Some(Stage::Admin)));
        assert!(!kills.strike_identity(&id("node/1"), Some(Stage::Node)));
        assert!(!kills.strike_node(&id("node/1")));
    }
    let named = Kills::new([kill(Target::Identity(id("admin/a")), State::Standing)]);
    assert!(named.strike_identity(&id("admin/a"), Some(Stage::Admin)));
    let node = Kills::new([kill(Target::Node(id("node/1")), State::Standing)]);
    assert!(node.strike_node(&id("node/1")) && !node.strike_node(&id("node/2")));
}

#[test]
fn what_waits_or_was_lifted_cuts_nothing_off() {
    for state in [State::Proposed, State::Lifted] {
        assert!(Kills::new([kill(Target::Everything, state)]).is_empty());
    }
}

#[test]
fn a_yes_is_somebody_elses_from_elsewhere_to_what_was_looked_at() {
    let waiting = kill(Target::Everything, State::Proposed);
    let digest = waiting.digest();
    let there = Host::At("192.0.2.7".parse().expect("an address"));
    let other = "spiffe://example.org/admin/b";
    assert_eq!(waiting.check_approve(other, there, &digest, false), Ok(()));
    assert_eq!(waiting.check_approve(other, Host::Broker, &digest, true), Ok(()));
    let refused = |by: &str, on, digest: &str| waiting.check_approve(by, on, digest, false);
    assert_eq!(refused(&waiting.asked.by, there, &digest), Err(NotConfirmable::SamePerson));
    assert_eq!(refused(other, Host::Broker, &digest), Err(NotConfirmable::SameHost));
    assert_eq!(refused(other, there, "another"), Err(NotConfirmable::Changed));
    let stands = Kill { state: State::Standing, ..waiting };
    assert_eq!(
        stands.check_approve(other, there, &digest, false),
        Err(NotConfirmable::Over(State::Standing))
    );
}

fn live(path: &str, node: &str, scope: Option<&str>, count: u64) -> Live {
    Live {
        spiffe_id: id(path),
        node: Some(id(node)),
        scope: scope.map(str::to_owned),
        provider: scope.map(|_| "vault".to_owned()),
        count,
    }
}

#[test]
fn the_width_counts_what_would_end_and_whose_it_is() {
    let all = [
        live("train/a", "node/1", None, 3),
        live("train/a", "node/1", Some("read"), 4),
        live("infer/b", "node/2", None, 7),
        live("infer/b", "node/2", Some("read"), 5),
        live("infer/b", "node/2", Some("write"), 1),
    ];
    let of = |target: Target| width(&target, &all, stage_of);
    let pattern = of(Target::Pattern("spiffe://example.org/train/**".parse().expect("a pattern")));
    assert_eq!((pattern.tasks, pattern.leases), ((3, 10), (4, 10)));
    assert_eq!(pattern.identities, [(id("train/a"), (3, 4))].into());
    let node = of(Target::Node(id("node/2")));
    assert_eq!((node.tasks.0, node.leases.0, node.scopes.get("write")), (7, 6, Some(&1)));
    let scope = of(Target::Scope("read".into()));
    assert_eq!((scope.tasks.0, scope.leases.0, scope.identities.len()), (0, 9, 2));
    assert_eq!(of(Target::Everything).tasks, (10, 10));
    assert_eq!(of(Target::Provider("aws".into())).leases, (0, 10));
}

#[test]
fn a_kill_is_wide_by_number_or_by_share_but_not_among_few() {
    let above = WideAbove { tasks: 50, percent: 10, few: 5 };
    let tasks = |struck, all| Width { tasks: (struck, all), ..Width::default() };
    let leases = |struck, all| Width { leases: (struck, all), ..Width::default() };
    for (width, wide) in [
        (tasks(0, 1_000), false),
        (tasks(50, 1_000), false),
        (tasks(51, 1_000_000), true),
        (tasks(5, 6), false),
        (tasks(6, 59), true),
        (tasks(6, 60), false),
        (leases(51, 1_000_000), true),
        (leases(6, 12), true),
    ] {
        assert_eq!(width.is_wide(above), wide, "{width:?}");
    }
}
