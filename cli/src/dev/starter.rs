//! What `dayfly dev` asks of the broker as its admin: whether it answers, the starter documents, and at the end all of it
//! back.

use std::time::Duration;

use dayfly_client::v1::{self, document_change::Verb};
use dayfly_client::{
    AgentClient, BrokerClient, BrokerEndpoint, CallError, ConnectError, Identity, IdentityOptions, chain,
};
use tokio::time::{Instant, sleep};

use super::READY_WITHIN;
use super::identities::{AGENT, BROKER};
use super::parts::Part;
use super::place::Place;
use crate::failure::Failure;
use crate::leases::LeaseView;
use crate::output;

/// Who is who, and one scope that needs no target but ours.
const DOCUMENTS: &str = include_str!("../../../deploy/examples/laptop.yaml");

const ASK_EVERY: Duration = Duration::from_millis(50);
/// How long the end waits for targets.
const TAKE_BACK_WITHIN_MS: u32 = 5_000;

/// Connects to the broker as the admin, as soon as it answers.
pub async fn connect(place: &Place, broker: &mut Part) -> Result<BrokerClient, Failure> {
    let identity =
        Identity::from_workload_api(Some(&place.endpoint("admin")), IdentityOptions::default()).await?;
    let deadline = Instant::now() + READY_WITHIN;
    let connecting = async {
        loop {
            let endpoint = BrokerEndpoint::new(&place.endpoint("broker"), [BROKER])?;
            match BrokerClient::connect(endpoint, &identity).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > deadline => return Err(late("broker", &error)),
                Err(_) => sleep(ASK_EVERY).await,
            }
        }
    };
    tokio::select! {
        connected = connecting => connected,
        ended = broker.ended() => Err(ended),
    }
}

/// Applies the starter documents if nothing was ever applied, and says how many.
pub async fn apply_if_empty(broker: &BrokerClient) -> Result<Option<usize>, Failure> {
    let request = v1::ListDocumentsRequest { kind: "Stage".to_owned() };
    if broker.admin().list_documents(request).await?.into_inner().revision > 0 {
        return Ok(None);
    }
    let request = v1::ApplyRequest {
        yaml: DOCUMENTS.to_owned(),
        live: v1::LivePolicy::Drain.into(),
        ..v1::ApplyRequest::default()
    };
    let answer = broker.admin().apply(request).await?.into_inner();
    if let Some(fault) = answer.faults.first() {
        let v1::DocumentFault { subject, path, problem, .. } = fault;
        return Err(Failure::new(format!("the starter documents are refused: {subject}: {path}: {problem}")));
    }
    Ok(Some(answer.changes.iter().filter(|change| change.verb() == Verb::Create).count()))
}

/// Waits until the agent serves programs and the broker hears it.
pub async fn wait_for_agent(
    broker: &BrokerClient,
    place: &Place,
    agent: &mut Part,
    attest: &mut Part,
) -> Result<(), Failure> {
    let deadline = Instant::now() + READY_WITHIN;
    let waiting = async {
        loop {
            match serves(broker, place).await {
                Ok(true) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Ok(false) if Instant::now() > deadline => {
                    return Err(
                        Failure::new("the broker does not hear the agent").next("read the logs of both")
                    );
                }
                Ok(false) | Err(_) => sleep(ASK_EVERY).await,
            }
        }
    };
    tokio::select! {
        waited = waiting => waited,
        ended = agent.ended() => Err(ended),
        ended = attest.ended() => Err(ended),
    }
}

/// Ends the tasks that are open and waits for what their targets say, so that nothing goes on working unwatched.
pub async fn take_back(broker: &BrokerClient, place: &Place) {
    let request = v1::RevokeRequest {
        target: Some(v1::revoke_request::Target::SpiffeId(place.me.program())),
        reason: "`dayfly dev` stops".to_owned(),
        wait_ms: TAKE_BACK_WITHIN_MS,
    };
    match broker.admin().revoke(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let leases: Vec<LeaseView> = answer.leases.into_iter().map(LeaseView::from).collect();
            if answer.tasks_ended > 0 {
                output::note(&format!("dayfly dev: {} open tasks are ended", answer.tasks_ended));
            }
            for lease in &leases {
                output::note(&format!(
                    "dayfly dev: {} of {}: {}",
                    lease.asked(),
                    lease.task_id,
                    lease.told()
                ));
            }
        }
        Err(status) => {
            let error = CallError::from(status);
            output::note(&format!(
                "dayfly dev: open tasks could not be ended: {error}; the next start ends them"
            ));
        }
    }
}

async fn serves(broker: &BrokerClient, place: &Place) -> Result<bool, Failure> {
    AgentClient::connect(place.socket("agent")).await?;
    let nodes = broker.admin().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
    Ok(nodes.iter().any(|node| node.spiffe_id == AGENT && node.state == "attached"))
}

fn late(part: &str, error: &ConnectError) -> Failure {
    Failure::new(format!("the {part} does not answer: {}", chain(error)))
}

#[cfg(test)]
mod tests {
    use dayfly_domain::document;

    use super::super::identities::{Me, SERVICE, TRUST_DOMAIN};
    use super::*;

    #[test]
    fn the_starter_documents_are_sound() {
        let (read, faults) = document::parse(DOCUMENTS);
        assert_eq!(faults, []);
        assert!(read.len() > 5);
        let domains = vec![dayfly_domain::node::TrustDomainRule {
            name: TRUST_DOMAIN.to_owned(),
            stages: dayfly_domain::stage::Stage::ALL.into(),
            patterns: vec!["spiffe://dev.dayfly/**".parse().expect("a pattern")],
        }];
        let rules = document::compile(1, &domains, &read).expect("no faults");
        let id = |text: String| text.parse().expect("an id");
        let me = Me { uid: 1000 };
        assert!(rules.node(&id(AGENT.to_owned())).is_some_and(|node| node.speaks_for(&id(me.program()))));
        assert!(rules.stage_of(&id(SERVICE.to_owned())).is_some());
        assert!(!rules.bindings_on("call-service", &id(me.program())).is_empty());
    }
}
