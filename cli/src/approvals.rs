//! `dayfly request`, `approve`, `refuse`, `withdraw`, `approvals`: temporary access that takes two admins.

mod view;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::Args;
use dayfly_client::v1::{self, decide_approval_request::Verdict, request_approval_request::End as WireEnd};
use dayfly_domain::time::{Timestamp, Ttl};

use self::view::ApprovalView;
use crate::apply::confirmed;
use crate::ceiling::key_value;
use crate::connect::{Admin, ConnectArgs, answer};
use crate::failure::Failure;
use crate::output::{self, BOLD, Format, paint, printable};
use crate::wire;

const REQUEST_EXAMPLES: &str = "\
Examples:
  dayfly request --spiffe-id spiffe://prod.example/tool/repair --scope prod-db-write --param table=users \\
    --for 2h --ticket OPS-1 --reason 'the nightly job left half a table'

Another admin, on another host, approves it with `dayfly approve ID`. Until then, and from its end on, it allows \
nothing. It stands beside a binding: an identity that no binding lets ask gets nothing by it.";

const APPROVE_EXAMPLES: &str = "\
Examples:
  dayfly approvals
  dayfly approve 01JZX0Q4V9N3F7T2K8M5R6W1YB
  dayfly approve 01JZX0Q4V9N3F7T2K8M5R6W1YB --yes --digest 9f86d081884c7d65…

What is shown is what is approved: if the scope's document changes in between, the approval is refused, and a change \
afterwards voids it.";

/// Ask for temporary access to a scope that wants approval
#[derive(Args, Debug)]
#[command(after_long_help = REQUEST_EXAMPLES)]
pub struct RequestArgs {
    /// The workload that is to be allowed to ask: one exact SPIFFE ID
    #[arg(long, value_name = "SPIFFE_ID")]
    spiffe_id: String,
    /// The scope
    #[arg(short, long, value_name = "SCOPE")]
    scope: String,
    /// A parameter of the scope; may be given more than once
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
    #[command(flatten)]
    end: EndArgs,
    /// Where the reason is found
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    ticket: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct EndArgs {
    /// For how long, counted from now
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<Ttl>,
    /// Until which moment (RFC 3339)
    #[arg(long, value_name = "MOMENT")]
    until: Option<Timestamp>,
}

/// Say yes to a request
#[derive(Args, Debug)]
#[command(after_long_help = APPROVE_EXAMPLES)]
pub struct ApproveArgs {
    /// The request's id
    #[arg(value_name = "APPROVAL")]
    id: String,
    /// Refuse unless what stands has this digest
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Names one request.
#[derive(Args, Debug)]
pub struct IdArgs {
    /// The request's id
    #[arg(value_name = "APPROVAL")]
    id: String,
}

/// See requests for approval
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Those that are over too
    #[arg(long)]
    all: bool,
    /// At most this many
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Asks for temporary access.
pub async fn request(args: RequestArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let RequestArgs { spiffe_id, scope, param, end, ticket, reason } = args;
    let mut parameters = std::collections::HashMap::new();
    for (name, value) in param {
        if parameters.insert(name.clone(), value).is_some() {
            return Err(Failure::usage(format!("--param {name} is given twice")));
        }
    }
    let until = end.until.map(|at| WireEnd::Until(wire::timestamp(at)));
    let wish = v1::RequestApprovalRequest {
        spiffe_id,
        scope: Some(v1::ScopeRequest { scope, parameters }),
        end: end.lasts.map(|span| WireEnd::Duration(wire::duration(span))).or(until),
        ticket,
        reason,
    };
    let admin = connect.admin().await?;
    let asked = answer(admin.approvals()?.request_approval(wish)).await?.approval;
    let asked = ApprovalView::read(asked)?;
    match format {
        Format::Json => output::json(&asked)?,
        Format::Table | Format::Yaml => {
            let next =
                format!("another admin, on another host, approves it: dayfly approve {}", asked.approval_id);
            output::text(&format!("{}{}\n", asked.facts(), printable(&next)))?;
        }
    }
    Ok(())
}

/// Shows what is to be approved, asks, and says yes to just that.
pub async fn approve(args: ApproveArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    let shown =
        answer(admin.approvals()?.get_approval(v1::GetApprovalRequest { approval_id: args.id })).await?;
    let (scope_yaml, bindings) = (shown.scope_yaml, shown.bindings);
    let asked = ApprovalView::read(shown.approval)?;
    let person = format == Format::Table && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if format == Format::Table {
        output::text(&what_is_approved(&asked, &scope_yaml, &bindings))?;
    }
    if !args.yes {
        if !person {
            return Err(Failure::new("nobody can be asked whether this is meant")
                .next("look at it with dayfly approvals -o json, then approve it with --yes and --digest"));
        }
        output::ask("approve this? [y/N] ")?;
        if !confirmed(&mut std::io::stdin().lock())? {
            return Err(Failure::new("nothing was approved").next("answer y, or say no with dayfly refuse"));
        }
    }
    let digest = args.digest.unwrap_or(asked.digest);
    decide(&admin, asked.approval_id, Verdict::Approve, digest, format).await
}

/// Says no.
pub async fn refuse(args: IdArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    decide(&admin, args.id, Verdict::Refuse, String::new(), format).await
}

/// Takes a request or an approval back.
pub async fn withdraw(args: IdArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Whole {
        approval: ApprovalView,
        revoked_lease_ids: Vec<String>,
    }
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    let wish = v1::WithdrawApprovalRequest { approval_id: args.id };
    let withdrawn = answer(admin.approvals()?.withdraw_approval(wish)).await?;
    let whole = Whole {
        approval: ApprovalView::read(withdrawn.approval)?,
        revoked_lease_ids: withdrawn.revoked_lease_ids,
    };
    match format {
        Format::Json => output::json(&whole)?,
        Format::Table | Format::Yaml => {
            let leases: String = whole
                .revoked_lease_ids
                .iter()
                .map(|id| format!("lease {} is being taken back\n", printable(id)))
                .collect();
            output::text(&format!("{}\n{leases}", whole.approval.line()))?;
        }
    }
    Ok(())
}

/// Lists requests.
pub async fn list(args: ListArgs, connect: ConnectArgs, format: Format) -> Result<(), Failure> {
    let format = format.not_yaml()?;
    let admin = connect.admin().await?;
    let wish = v1::ListApprovalsRequest { include_over: args.all, limit: args.limit };
    let rows = answer(admin.approvals()?.list_approvals(wish)).await?.approvals;
    let rows = rows.into_iter().map(|row| ApprovalView::read(Some(row))).collect::<Result<Vec<_>, _>>()?;
    match format {
        Format::Json => output::json(&BTreeMap::from([("approvals", &rows)]))?,
        Format::Table | Format::Yaml => output::text(&view::table(&rows))?,
    }
    Ok(())
}

async fn decide(
    admin: &Admin,
    approval_id: String,
    verdict: Verdict,
    digest: String,
    format: Format,
) -> Result<(), Failure> {
    let wish = v1::DecideApprovalRequest { approval_id, verdict: verdict.into(), digest };
    let decided = ApprovalView::read(answer(admin.approvals()?.decide_approval(wish)).await?.approval)?;
    match format {
        Format::Json => output::json(&decided)?,
        Format::Table | Format::Yaml => output::text(&format!("{}\n", decided.line()))?,
    }
    Ok(())
}

fn what_is_approved(asked: &ApprovalView, scope_yaml: &str, bindings: &[String]) -> String {
    let beside = match bindings {
        [] => "no binding lets this identity ask for it; by itself the approval allows nothing".to_owned(),
        names => format!("beside {}", names.join(", ")),
    };
    let scope: String = scope_yaml.lines().map(|line| format!("    {}\n", printable(line))).collect();
    format!("{}{}\n{}\n{scope}", asked.facts(), printable(&beside), paint(BOLD, "the scope as it stands"))
}
