//! `dayfly explain`: why a request was decided as it was, or how one would be.

use clap::{Args, builder::NonEmptyStringValueParser};
use dayfly_client::v1;
use dayfly_domain::time::Ttl;
use serde::Serialize;
use serde_json::Value;

use crate::ceiling::key_value;
use crate::connect::{ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, BAD, BOLD, Format, paint};
use crate::question::{StepView, VerdictView, aside};
use crate::wire;

const EXAMPLES: &str = "\
A request that was decided is named by the id that its refusal shows, or by the lease it led to. One that nobody made is \
described. Nothing is granted and nothing is asked of any target.

Examples:
  dayfly explain 01JZX0Q4V9N3F7T2K8M5R6W1YB
  dayfly explain --spiffe-id spiffe://prod.example/training/llm --scope s3-train-read --param dataset=corpus-8
  dayfly explain --spiffe-id spiffe://prod.example/tool/search --scope index-query --param collection=papers \\
      --under spiffe://prod.example/inference/planner
  dayfly explain --task 01JZX0Q4V9N3F7T2K8M5R6W1YB --action load-model --artifact models/llama-3-8b@sha256:2c26…";

/// Why a request was, or would be, allowed or denied
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ExplainArgs {
    /// Id of a request that was decided, or of the lease it led to
    #[arg(value_name = "REQUEST", conflicts_with_all = ["spiffe_id", "scope", "task", "action"])]
    #[arg(required_unless_present_any = ["spiffe_id", "task"])]
    id: Option<String>,
    /// Who would ask; with --task the holder of the task, if nobody is named
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: Option<String>,
    /// The scope that would be asked for
    #[arg(long, short = 's', value_name = "SCOPE", value_parser = NonEmptyStringValueParser::new())]
    scope: Option<String>,
    /// A parameter of the scope; may be given more than once
    #[arg(long, short = 'p', value_name = "KEY=VALUE", value_parser = key_value, requires = "scope")]
    param: Vec<(String, String)>,
    /// In a task that is there
    #[arg(long, value_name = "TASK", conflicts_with_all = ["under", "via"])]
    task: Option<String>,
    /// Who holds each task above, root first, separated by commas
    #[arg(long, value_name = "SPIFFE_ID", value_delimiter = ',')]
    under: Vec<String>,
    /// Through a node agent, or straight to the broker
    #[arg(long, value_name = "WAY", value_parser = ["agent", "direct"])]
    via: Option<String>,
    /// An action on an artifact, in place of a credential
    #[arg(long, value_name = "ACTION", requires = "artifact")]
    action: Option<String>,
    /// What the action is on: NAME or NAME@sha256:DIGEST
    #[arg(long, value_name = "ARTIFACT", requires = "action")]
    artifact: Option<String>,
    /// How long the credential would be wanted for
    #[arg(long, value_name = "SPAN", value_parser = |text: &str| text.parse::<Ttl>())]
    ttl: Option<Ttl>,
}

/// Asks and prints.
pub async fn explain(args: ExplainArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    use v1::explain_request::Question;
    let format = format.not_yaml()?;
    let supposed = supposed(&args);
    let question = match args.id {
        Some(id) => Question::Id(id),
        None => Question::Hypothesis(supposed.clone()),
    };
    let admin = connect.admin().await?;
    let request = v1::ExplainRequest { question: Some(question) };
    let told = answer(admin.questions().explain(request)).await?;
    let view = Told {
        past: told.past.into_iter().map(PastView::from).collect(),
        now: told.now.map(ExplanationView::from),
    };
    match format {
        Format::Json => output::json(&view)?,
        Format::Table | Format::Yaml => output::text(&show(&view, &supposed))?,
    }
    Ok(())
}

fn supposed(args: &ExplainArgs) -> v1::Hypothesis {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let scope = args.scope.as_ref().map(|scope| v1::ScopeRequest {
        scope: scope.clone(),
        parameters: args.param.iter().cloned().collect(),
    });
    let artifact = args.artifact.as_ref().map(|artifact| {
        let (name, digest) = artifact.split_once('@').unwrap_or((artifact, ""));
        v1::Artifact { name: name.to_owned(), digest: digest.to_owned() }
    });
    v1::Hypothesis {
        spiffe_id: text(&args.spiffe_id),
        scope,
        ttl: args.ttl.map(wire::duration),
        via: text(&args.via),
        task_id: text(&args.task),
        under: args.under.clone(),
        action: text(&args.action),
        artifact,
    }
}

/// The answer as programs read it; the field names are stable.
#[derive(Debug, Serialize)]
struct Told {
    past: Vec<PastView>,
    now: Option<ExplanationView>,
}

#[derive(Debug, Serialize)]
struct PastView {
    writer: String,
    seq: u64,
    record: Value,
    then: Option<ExplanationView>,
    not_decided: Option<String>,
    differs: bool,
    today: Option<ExplanationView>,
}

#[derive(Debug, Serialize)]
struct ExplanationView {
    verdict: VerdictView,
    steps: Vec<StepView>,
    chain: Vec<String>,
    hypothetical: bool,
    revision: u64,
}

impl From<v1::PastDecision> for PastView {
    fn from(wire: v1::PastDecision) -> Self {
        PastView {
            writer: wire.writer,
            seq: wire.seq,
            record: serde_json::from_slice(&wire.record).unwrap_or_default(),
            then: wire.then.map(ExplanationView::from),
            not_decided: wire::some(wire.not_decided),
            differs: wire.differs,
            today: wire.today.map(ExplanationView::from),
        }
    }
}

impl From<v1::Explanation> for ExplanationView {
    fn from(wire: v1::Explanation) -> Self {
        let step =
            |step: v1::ExplainedStep| StepView { rule: step.rule, matched: step.matched, what: step.what };
        ExplanationView {
            verdict: wire.verdict.unwrap_or_default().into(),
            steps: wire.steps.into_iter().map(step).collect(),
            chain: wire.chain,
            hypothetical: wire.hypothetical,
            revision: wire.revision,
        }
    }
}

fn show(told: &Told, supposed: &v1::Hypothesis) -> String {
    let past: Vec<String> = told.past.iter().map(show_past).collect();
    let now = told.now.iter().map(|now| show_supposed(now, supposed));
    past.into_iter().chain(now).collect::<Vec<_>>().join("\n")
}

fn show_past(past: &PastView) -> String {
    let record = &past.record;
    let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let parameters = serde_json::from_value(record["parameters"].clone()).unwrap_or_default();
    let way = match text("node") {
        node if node.is_empty() => text("via"),
        node => format!("{}, by {node}", text("stage")),
    };
    let act = match text("action") {
        action if action.is_empty() => String::new(),
        action => {
            let artifact = &record["artifact"];
            let digest = artifact["digest"].as_str().map(|digest| format!("@{digest}")).unwrap_or_default();
            format!("{action} of {}{digest}", artifact["name"].as_str().unwrap_or_default())
        }
    };
    let given = &record["on_behalf_of"];
    let giver = match (given["spiffe_id"].as_str(), given["task_id"].as_str()) {
        (Some(id), Some(task)) => format!("{id}, of task {task}"),
        _ => String::new(),
    };
    let outcome = match text("event").as_str() {
        "decision.allow" => paint(output::GOOD, &format!("allow by binding {}", text("binding"))),
        _ => paint(BAD, &format!("DENY {}", text("reason"))),
    };
    let outcome = if text("event") == "decision.allow" && text("binding").is_empty() {
        paint(output::GOOD, "allow")
    } else {
        outcome
    };
    let facts = output::facts([
        ("request", text("request_id")),
        ("what", text("what")),
        ("at", text("at")),
        ("asked by", format!("{} ({way})", text("spiffe_id"))),
        (
            "asked for",
            match text("scope").is_empty() || record["ceiling"].is_array() {
                true => String::new(),
                false => wire::scope(&text("scope"), &parameters),
            },
        ),
        ("to", act),
        ("declares", declared(&record["ceiling"])),
        ("for", text("delegate_to")),
        ("given by", giver),
        ("below", text("parent_task_id")),
        ("task", text("task_id")),
        ("lease", text("lease_id")),
        (
            "record",
            format!(
                "number {} of stream decision, by {}, under revision {}",
                past.seq, past.writer, record["revision"]
            ),
        ),
    ]);
    let mut shown = format!("{facts}{:<9}  {outcome}\n", "decided");
    if !text("message").is_empty() {
        shown.push_str(&output::facts([("told", text("message"))]).replacen("told", "told     ", 1));
    }
    let trace: Vec<&str> =
        record["trace"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !trace.is_empty() {
        shown.push_str(&format!("\n{}\n", paint(BOLD, "as it was recorded")));
        shown.extend(trace.iter().map(|line| format!("  {}\n", output::printable(line).replace('\n', " "))));
    }
    match (&past.then, &past.not_decided) {
        (Some(then), _) => {
            shown.push_str(&format!("\n{}\n", paint(BOLD, "decided once more, under what stood then")));
            shown.extend(then.steps.iter().map(StepView::told));
            shown.push_str(&format!("  {}\n", then.verdict.painted()));
        }
        (None, Some(why)) => {
            shown.push_str(&format!("\n{}", aside(&format!("not decided once more: {why}"))))
        }
        (None, None) => {}
    }
    if past.differs {
        let alarm = "THIS IS NOT WHAT THE RECORD SAYS: report it, with the id of the request";
        shown.push_str(&format!("{}\n", paint(BAD.bold(), alarm)));
    }
    if let Some(today) = &past.today {
        shown.push_str(&format!("\ntoday, under revision {}: {}\n", today.revision, today.verdict.painted()));
    }
    shown
}

/// What a task was to declare, each line with its values.
fn declared(ceiling: &Value) -> String {
    let line = |line: &Value| {
        let values = serde_json::from_value(line["parameters"].clone()).unwrap_or_default();
        wire::scope(line["scope"].as_str().unwrap_or_default(), &values)
    };
    ceiling.as_array().into_iter().flatten().map(line).collect::<Vec<_>>().join(", ")
}

fn show_supposed(now: &ExplanationView, supposed: &v1::Hypothesis) -> String {
    let scope = supposed.scope.as_ref();
    let asked = scope.map(|one| wire::scope(&one.scope, &wire::sorted(one.parameters.clone())));
    let act = supposed.artifact.as_ref().map(|artifact| {
        let digest = if artifact.digest.is_empty() { String::new() } else { format!("@{}", artifact.digest) };
        format!("{} of {}{digest}", supposed.action, artifact.name)
    });
    let tasks = match now.hypothetical {
        true => "made up for this question".to_owned(),
        false => format!("task {} as it stands", supposed.task_id),
    };
    let asker = match supposed.spiffe_id.is_empty() {
        true => now.chain.last().cloned().unwrap_or_default(),
        false => supposed.spiffe_id.clone(),
    };
    let facts = output::facts([
        ("asked by", asker),
        ("asked for", asked.unwrap_or_default()),
        ("to", act.unwrap_or_default()),
        ("held by", now.chain.join(" > ")),
        ("tasks", tasks),
        ("revision", now.revision.to_string()),
    ]);
    let steps: String = now.steps.iter().map(StepView::told).collect();
    let mut shown = format!(
        "{facts}\n{}\n{steps}\n{}\n",
        paint(BOLD, "what the record would hold"),
        now.verdict.painted()
    );
    if !now.verdict.allowed {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        shown.push_str(&format!("\n{}\n", paint(BOLD, "what the caller would be told")));
        let told =
            output::facts([("message", text(&now.verdict.message)), ("next", text(&now.verdict.next))]);
        shown.extend(told.lines().map(|line| format!("  {line}\n")));
    }
    shown
}
