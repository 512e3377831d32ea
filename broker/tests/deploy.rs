//! What operators read and start from says what the code does: tables of `docs/`, examples of `deploy/`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the answer")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use dayfly_broker::config::Config;
use dayfly_broker::limits::Limits;
use dayfly_broker::providers::aws::AwsConfig;
use dayfly_broker::providers::vault::{TransitConfig, VaultConfig};
use dayfly_broker::store::sqlite::Options;
use dayfly_client::{IdentityOptions, IncomingLimits};
use dayfly_domain::decision::DenyReason;
use dayfly_domain::document::{self, Document};
use dayfly_domain::rules::Rules;
use dayfly_domain::stage::Stage;
use harness::manual::{self, DefaultRow, assert_defaults};
use regex::Regex;
use serde::Deserialize;

#[test]
fn the_table_of_limits_is_the_brokers_own() {
    // By name, so that a new limit does not compile before it is in the table.
    let Limits {
        heartbeat_interval,
        lapse_after,
        brake_nodes,
        brake_percent,
        brake_window,
        brake_longest,
        default_task,
        longest_task,
        direct_task,
        claim_within,
        longest_claim_within,
        stream_grace,
        subject_token_age,
        stream_after_expiry,
        pending_overdue,
        revocation_claim,
        revocations_in_flight,
        revocation_stuck_after,
        revocation_stuck_pause,
        wide_kill_tasks,
        wide_kill_percent,
        wide_kill_few,
        kill_settles,
        live_leases_per_identity,
        live_leases_per_scope,
        live_leases_per_session,
        requests_per_minute_per_identity,
        requests_per_minute_per_scope,
        requests_per_minute_per_session,
        task_depth,
        equal_denials_per_minute,
        message_bytes,
        calls_per_connection,
        drain,
    } = Limits::default();
    let vault: Vaults = toml::from_str(&manual::file("deploy/vault/broker.toml").unwrap()).unwrap();
    let keys: Held = toml::from_str(&manual::file("deploy/vault/broker-keys.toml").unwrap()).unwrap();
    let aws: Clouds = toml::from_str(&manual::file("deploy/aws/broker.toml").unwrap()).unwrap();
    let times = [
        ("limits.heartbeat_interval", heartbeat_interval),
        ("limits.lapse_after", lapse_after),
        ("limits.brake_window", brake_window),
        ("limits.brake_longest", brake_longest),
        ("limits.default_task", default_task),
        ("limits.longest_task", longest_task),
        ("limits.direct_task", direct_task),
        ("limits.claim_within", claim_within),
        ("limits.longest_claim_within", longest_claim_within),
        ("limits.stream_grace", stream_grace),
        ("limits.subject_token_age", subject_token_age),
        ("limits.stream_after_expiry", stream_after_expiry),
        ("limits.pending_overdue", pending_overdue),
        ("limits.revocation_claim", revocation_claim),
        ("limits.revocation_stuck_pause", revocation_stuck_pause),
        ("limits.kill_settles", kill_settles),
        ("limits.drain", drain),
        ("vault.timeout", vault.vault.timeout),
        ("keys.vault_transit.timeout", keys.keys.vault_transit.timeout),
        ("aws.timeout", aws.aws.timeout),
        ("aws.revoker.propagation", aws.aws.revoker.as_ref().unwrap().propagation),
    ];
    let counts = [
        ("limits.brake_nodes", brake_nodes.into()),
        ("limits.brake_percent", brake_percent.into()),
        ("limits.revocations_in_flight", u64::from(revocations_in_flight)),
        ("limits.revocation_stuck_after", revocation_stuck_after.into()),
        ("limits.wide_kill_tasks", wide_kill_tasks.into()),
        ("limits.wide_kill_percent", wide_kill_percent.into()),
        ("limits.wide_kill_few", wide_kill_few.into()),
        ("limits.live_leases_per_identity", live_leases_per_identity.into()),
        ("limits.live_leases_per_scope", live_leases_per_scope.into()),
        ("limits.live_leases_per_session", live_leases_per_session.into()),
        ("limits.requests_per_minute_per_identity", requests_per_minute_per_identity.into()),
        ("limits.requests_per_minute_per_scope", requests_per_minute_per_scope.into()),
        ("limits.requests_per_minute_per_session", requests_per_minute_per_session.into()),
        ("limits.task_depth", task_depth.into()),
        ("limits.equal_denials_per_minute", equal_denials_per_minute.into()),
        ("limits.message_bytes", message_bytes.try_into().unwrap()),
        ("limits.calls_per_connection", calls_per_connection.into()),
    ];
    let place = "broker.toml";
    let times = times.map(|(name, span)| DefaultRow::new(name, span, place));
    let counts = counts.map(|(name, count)| DefaultRow::new(name, count, place));
    assert_defaults(&[place], &[&times[..], &counts[..]].concat());
}

#[test]
fn the_table_of_limits_is_what_documents_get() {
    let source = "
kind: Stage
metadata: {name: training}
spec: {patterns: [\"spiffe://example.org/training/*\"]}
---
kind: Stage
metadata: {name: node}
spec: {patterns: [\"spiffe://example.org/node/*\"]}
---
kind: Scope
metadata: {name: plain}
spec: {stages: [training], approval: {}, target: {token: {audience: \"spiffe://example.org/tool/x\", checked: offline}}}
---
kind: Binding
metadata: {name: plain}
spec: {identities: [\"spiffe://example.org/training/*\"], scope: plain}
---
kind: Node
metadata: {name: plain}
spec: {agents: \"spiffe://example.org/node/*\", workloads: [\"spiffe://example.org/training/*\"], trust_domains: [example.org], anchors: [process]}
";
    let (documents, faults) = document::parse(source);
    assert!(faults.is_empty(), "{faults:?}");
    let rules = document::compile(1, &example_broker().trust_domain_rules(), &documents);
    let rules = rules.unwrap_or_else(|faults| panic!("{faults:#?}"));
    let scope = rules.scope("plain").unwrap();
    assert_eq!(scope.ttl.max, scope.ttl.default);
    let trainer = "spiffe://example.org/training/a".parse().unwrap();
    let binding = rules.bindings_on("plain", &trainer)[0];
    let node = rules.node(&"spiffe://example.org/node/n1".parse().unwrap()).unwrap();
    let rows = [
        DefaultRow::new("spec.ttl.default", scope.ttl.default, "Scope"),
        DefaultRow::new("spec.approval.max", scope.approval.unwrap().max, "Scope"),
        DefaultRow::new("spec.max_task", binding.max_task, "Binding"),
        DefaultRow::new("spec.max_live_leases", node.max_live_leases, "Node"),
    ];
    assert_defaults(&["Scope", "Binding", "Node"], &rows);
}

#[test]
fn the_table_of_limits_names_every_fixed_time() {
    let Options { reserve_bytes, max_bytes: None, readers } = Options::default() else {
        panic!("max_bytes has a default: put it into the table");
    };
    let IncomingLimits { handshakes, handshake_timeout } = IncomingLimits::default();
    let store = "broker/src/store/sqlite/open.rs";
    let incoming = "client/src/incoming.rs";
    let initial = IdentityOptions::default().initial_sync_timeout;
    let values = [
        DefaultRow::new("reserve_bytes", reserve_bytes, store),
        DefaultRow::new("readers", readers, store),
        DefaultRow::new("handshakes", handshakes, incoming),
        DefaultRow::new("handshake_timeout", handshake_timeout, incoming),
        DefaultRow::new("initial_sync_timeout", initial, "client/src/identity.rs"),
    ];
    let rows = manual::defaults().unwrap();
    let constants = manual::constants().unwrap();
    // DEFAULT_… constants are the defaults of keys, which the other tests compare.
    let is_default_of_a_key =
        |row: &DefaultRow| row.name.starts_with("DEFAULT_") && !rows.iter().any(|told| told.name == row.name);
    let is_told =
        |row: &DefaultRow| rows.iter().any(|told| (&told.name, &told.place) == (&row.name, &row.place));
    let expected = constants.iter().filter(|found| {
        let named = found.row.name != "ZERO" && !is_default_of_a_key(&found.row);
        named && (found.is_time || is_told(&found.row))
    });
    let expected: Vec<DefaultRow> = expected.map(|found| found.row.clone()).chain(values).collect();
    let places: BTreeSet<&str> =
        rows.iter().map(|row| row.place.as_str()).filter(|place| place.contains('/')).collect();
    assert!(places.len() > 20, "{places:?}");
    let mut all: BTreeSet<&str> = expected.iter().map(|row| row.place.as_str()).collect();
    all.extend(&places);
    assert_defaults(&all.into_iter().collect::<Vec<_>>(), &expected);

    let known = ["broker.toml", "agent.toml", "Scope", "Binding", "Node"];
    let strays: Vec<&DefaultRow> =
        rows.iter().filter(|row| !row.place.contains('/') && !known.contains(&row.place.as_str())).collect();
    assert!(strays.is_empty(), "no test compares {strays:?}");
}

#[test]
fn the_table_of_reason_codes_is_whole() {
    let rows = manual::table("docs/status-codes.md", "Codes").unwrap();
    let told: BTreeMap<&str, &[String]> = rows.iter().map(|row| (row[0].as_str(), &row[1..])).collect();
    assert_eq!(told.len(), rows.len(), "a reason stands there twice");
    assert!(rows.is_sorted_by(|a, b| a[0] < b[0]), "keep the table in the order of the alphabet");
    for row in &rows {
        let [_, status, said_by, when, caller, operator] = &row[..] else {
            panic!("a row of another width: {row:?}")
        };
        assert!(
            !when.is_empty() && (!caller.is_empty() || !operator.is_empty()),
            "{row:?} says not what to do"
        );
        assert!(!status.is_empty() && !said_by.is_empty(), "{row:?}");
    }
    let mut known = reasons_in_the_code();
    known.extend(DenyReason::ALL.map(|reason| reason.as_str().to_owned()));
    let told: BTreeSet<String> = told.keys().map(|reason| (*reason).to_owned()).collect();
    let missing: Vec<_> = known.difference(&told).collect();
    let stray: Vec<_> = told.difference(&known).collect();
    assert!(
        missing.is_empty() && stray.is_empty(),
        "not in docs/status-codes.md: {missing:?}; in it alone: {stray:?}"
    );
}

/// Words in capitals, in quotes, in the files that refuse.
fn reasons_in_the_code() -> BTreeSet<String> {
    let word = Regex::new(r#""([A-Z]+(?:_[A-Z0-9]+)*)""#).unwrap();
    // HTTP methods, and what the agent counts a refusal of the broker as.
    let others = ["GET", "POST", "LIST", "BY_BROKER"];
    let refuses = |path: &&String| {
        [
            "broker/src/api/",
            "broker/src/operations/",
            "broker/src/public/exchange/",
            "broker/src/caller.rs",
            "agent/src/socket/",
        ]
        .iter()
        .any(|place| path.starts_with(place))
            || *path == "cli/src/run.rs"
    };
    let sources = manual::sources(&["broker", "agent", "cli"]).unwrap();
    let mut found = BTreeSet::new();
    for path in sources.iter().filter(refuses) {
        let text = manual::shipped(&manual::file(path).unwrap());
        // Variables of the environment and macros of cargo are no reasons.
        let words = word.captures_iter(&text).map(|found| found[1].to_owned());
        found.extend(words.filter(|word| {
            let of_environment =
                ["DAYFLY_", "CARGO_", "AWS_", "VAULT_"].iter().any(|start| word.starts_with(start));
            // The command line's help is full of single words in capitals.
            let is_placeholder = path.starts_with("cli/") && !word.contains('_');
            word.len() > 2 && !is_placeholder && !of_environment && !others.contains(&word.as_str())
        }));
    }
    assert!(found.len() > 50, "{found:?}");
    found
}

#[test]
fn the_statuses_of_reason_codes_are_the_codes_own() {
    let rows = manual::table("docs/status-codes.md", "Codes").unwrap();
    let pair = Regex::new(r#"Code::([A-Za-z]+),[ \n]*(?:reason: )?"([A-Z_]+)""#).unwrap();
    let humps = Regex::new("([a-z])([A-Z])").unwrap();
    let mut compared = 0;
    for path in manual::sources(&["broker", "agent"]).unwrap() {
        for found in pair.captures_iter(&manual::shipped(&manual::file(&path).unwrap())) {
            let status = humps.replace_all(&found[1], "${1}_$2").to_uppercase();
            let row = rows.iter().find(|row| row[0] == found[2]).unwrap();
            // One reason may be said with two statuses; the table tells the one that callers meet.
            assert_eq!(row[1], status, "{path}: {}", &found[2]);
            compared += 1;
        }
    }
    assert!(compared > 30, "{compared}");
}

#[test]
fn the_tables_of_metrics_and_alarms_are_whole() {
    let registered = Regex::new(r#"register\([ \n]*"([a-z_]+)""#).unwrap();
    let raised = Regex::new(r#"alarm = "([a-z_]+)""#).unwrap();
    let (mut metrics, mut alarms) = (BTreeSet::new(), BTreeSet::new());
    for name in ["broker", "agent"] {
        for path in manual::sources(&[name]).unwrap() {
            let text = manual::shipped(&manual::file(&path).unwrap());
            metrics
                .extend(registered.captures_iter(&text).map(|found| format!("dayfly_{name}_{}", &found[1])));
            alarms.extend(raised.captures_iter(&text).map(|found| found[1].to_owned()));
        }
    }
    let first = |heading| {
        let rows = manual::table("docs/operating.md", heading).unwrap();
        rows.into_iter().map(|row| row[0].trim_end_matches("_total").to_owned()).collect::<BTreeSet<String>>()
    };
    assert_eq!(first("Metrics"), metrics);
    assert_eq!(first("Alarms"), alarms);
}

#[test]
fn the_example_configuration_fits_the_sections_of_vault_and_aws() {
    let vault = manual::file("deploy/vault/broker.toml").unwrap();
    let aws = manual::file("deploy/aws/broker.toml").unwrap();
    // The issuer stands in both, for AWS reads its documents.
    let aws = &aws[aws.find("[aws]").unwrap()..];
    let config = load(&format!("{}\n{vault}\n{aws}", manual::file("deploy/config/broker.toml").unwrap()));
    assert_eq!(config.faults_as("example.org"), Vec::<String>::new());
    assert!(config.vault.is_some() && config.aws.is_some() && config.introspection.is_some());
    assert!(config.token_exchange.is_some());
    let clouds: Clouds = toml::from_str(&manual::file("deploy/aws/broker.toml").unwrap()).unwrap();
    assert_eq!(config.issuer.url, clouds.issuer.url);
}

#[test]
fn the_example_configuration_takes_its_keys_from_vault_instead() {
    let whole = manual::file("deploy/config/broker.toml").unwrap();
    let files = "[keys]\ndir = \"/var/lib/dayfly-keys\"\n";
    assert!(whole.contains(files), "the section that is replaced");
    let config = load(&whole.replace(files, &manual::file("deploy/vault/broker-keys.toml").unwrap()));
    assert!(config.keys.dir.is_none() && config.keys.vault_transit.is_some());
}

#[test]
fn the_example_documents_compile_together() {
    let rules = example_rules();
    for (id, stage) in [
        ("training/llm", Stage::Training),
        ("inference/planner", Stage::Inference),
        ("retrieval/ranker", Stage::Retrieval),
        ("tool/index", Stage::Tool),
        ("admin/ann", Stage::Admin),
        ("node/n1", Stage::Node),
    ] {
        let id = format!("spiffe://example.org/{id}").parse().unwrap();
        assert_eq!(rules.stage_of(&id), Some(stage), "{id}");
    }
    for (scope, id) in
        [("index-query", "training/llm"), ("s3-train-read", "training/llm"), ("kb-read", "retrieval/ranker")]
    {
        let id = format!("spiffe://example.org/{id}").parse().unwrap();
        assert!(rules.bindings_on(scope, &id).iter().any(|binding| binding.may_use), "{scope} for {id}");
    }
    let planner = "spiffe://example.org/inference/planner".parse().unwrap();
    assert!(
        rules
            .bindings_on("index-query", &planner)
            .iter()
            .all(|binding| !binding.may_use && binding.delegate.is_some())
    );
}

#[test]
fn the_entries_for_spire_name_who_the_configurations_name() {
    let entries: Vec<String> = ["broker", "node", "workloads"]
        .iter()
        .flat_map(|name| {
            let text = manual::file(format!("deploy/spire/entries-{name}.json")).unwrap();
            let data: serde_json::Value = serde_json::from_str(&text.replace("NODE", "n1")).unwrap();
            let entries = data["entries"].as_array().unwrap().clone();
            entries.into_iter().map(|entry| entry["spiffe_id"].as_str().unwrap().to_owned())
        })
        .collect();
    let config = example_broker();
    let has = |id: &str| assert!(entries.iter().any(|entry| entry == id), "no entry for {id}");
    has(config.identity.spiffe_id.unwrap().as_str());
    has(config.admins.root[0].as_str());
    let agent: toml::Table = manual::file("deploy/config/agent.toml").unwrap().parse().unwrap();
    for section in ["agent", "broker"] {
        has(agent[section]["spiffe_id"].as_str().unwrap());
    }
    let spire = manual::file("deploy/spire/agent.conf").unwrap();
    let delegate = Regex::new(r#"authorized_delegates = \["([^"]+)"\]"#).unwrap();
    has(&delegate.captures(&spire).unwrap()[1]);
    // Each of the others fills a stage.
    let rules = example_rules();
    for id in entries.iter().filter(|id| !id.contains("/dayfly/")) {
        assert!(rules.stage_of(&id.parse().unwrap()).is_some(), "{id} fills no stage");
    }
}

#[derive(Deserialize)]
struct Vaults {
    vault: VaultConfig,
}

#[derive(Deserialize)]
struct Held {
    keys: HeldKeys,
}

#[derive(Deserialize)]
struct HeldKeys {
    vault_transit: TransitConfig,
}

#[derive(Deserialize)]
struct Clouds {
    issuer: dayfly_broker::public::IssuerConfig,
    aws: AwsConfig,
}

fn example_broker() -> Config {
    load(&manual::file("deploy/config/broker.toml").unwrap())
}

fn load(text: &str) -> Config {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("broker.toml");
    std::fs::write(&path, text).unwrap();
    Config::load(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn example_rules() -> Rules {
    let parts = ["documents/identities", "documents/index", "documents/training", "documents/retrieval"];
    let parts = parts.iter().chain(&["vault/scope-kb-read", "aws/scope-s3-train-read"]);
    let text: Vec<String> = parts.map(|name| manual::file(format!("deploy/{name}.yaml")).unwrap()).collect();
    let (documents, faults): (Vec<(u32, Document)>, _) = document::parse(&text.join("\n---\n"));
    assert!(faults.is_empty(), "{faults:#?}");
    let rules = document::compile(1, &example_broker().trust_domain_rules(), &documents);
    rules.unwrap_or_else(|faults| panic!("{faults:#?}"))
}
