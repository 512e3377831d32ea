//! `QuestionService`, over mTLS and on the break-glass socket.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use dayfly_domain::binding::ViaRule;
use dayfly_domain::id::RequestId;
use dayfly_domain::parameter::{MAX_PARAMETERS, Parameters};
use dayfly_domain::spiffe::SpiffeId;
use dayfly_domain::who_can::LONGEST_TEXT;
use dayfly_proto::v1;
use dayfly_proto::v1::question_service_server::QuestionService;
use tokio_stream::Stream;
use tonic::{Request as Rpc, Response, Status};

use super::{Api, answers, review, simulation, status, wire};
use crate::operations;
use crate::operations::admin::Verb;
use crate::operations::explain::{self, Stand, Supposed};
use crate::operations::reach::{self, Subject};
use crate::operations::{simulate, who_can};

/// Most tasks above a supposed asker.
const MOST_ABOVE: usize = 16;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl QuestionService for Api {
    async fn explain(&self, rpc: Rpc<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        use v1::explain_request::Question;
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let told = |error| status::of(error, id);
        let question = rpc.into_inner().question;
        let answer = match question.ok_or_else(|| nothing_asked("a request or a hypothesis", id))? {
            Question::Id(asked) => {
                let past = explain::explain_past(&self.broker, asked.trim()).await.map_err(told)?;
                v1::ExplainResponse { past: past.into_iter().map(answers::past).collect(), now: None }
            }
            Question::Hypothesis(asked) => {
                let supposed = supposed(asked, id)?;
                let now = explain::explain_supposed(&self.broker, supposed).await.map_err(told)?;
                v1::ExplainResponse { past: Vec::new(), now: Some(answers::explained(now)) }
            }
        };
        Ok(Response::new(answer))
    }

    async fn reach(&self, rpc: Rpc<v1::ReachRequest>) -> Answer<v1::ReachResponse> {
        use v1::reach_request::Subject as Wire;
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let subject = rpc.into_inner().subject;
        let subject = match subject.ok_or_else(|| nothing_asked("an identity, a task or a session", id))? {
            Wire::SpiffeId(text) => Subject::Identity(spiffe_id(&text, id)?),
            Wire::TaskId(text) => Subject::Task(wire::task_id(&text, id)?),
            Wire::SessionId(text) => Subject::Session(wire::task_id(&text, id)?.into()),
        };
        let reached = reach::reach(&self.broker, subject).await.map_err(|error| status::of(error, id))?;
        Ok(Response::new(answers::reached(reached)))
    }

    async fn who_can(&self, rpc: Rpc<v1::WhoCanRequest>) -> Answer<v1::WhoCanResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let v1::WhoCanRequest { what, parameters } = rpc.into_inner();
        if what.is_empty() || what.len() > LONGEST_TEXT {
            let message = format!("a scope's name, or a text of at most {LONGEST_TEXT} bytes, is wanted");
            return Err(status::invalid(
                "NOTHING_ASKED",
                message,
                "name a scope, or a piece of a target",
                id,
            ));
        }
        let chosen = chosen(parameters, id)?;
        let answer = who_can::who_can(&self.broker, what, chosen).await;
        Ok(Response::new(answers::who_can(answer.map_err(|error| status::of(error, id))?)))
    }

    async fn review(&self, rpc: Rpc<v1::ReviewRequest>) -> Answer<v1::ReviewResponse> {
        let (id, _) = self.admin(&rpc, Verb::Read).await?;
        let (wanted, back) = review::asked(rpc.into_inner(), id)?;
        let answer = operations::review::review(&self.broker, wanted, back).await;
        Ok(Response::new(review::reviewed(&answer.map_err(|error| status::of(error, id))?)))
    }

    type SimulateStream = Pin<Box<dyn Stream<Item = Result<v1::SimulateResponse, Status>> + Send>>;

    async fn simulate(&self, rpc: Rpc<v1::SimulateRequest>) -> Answer<Self::SimulateStream> {
        let (id, admin) = self.admin(&rpc, Verb::Read).await?;
        let asked = simulation::asked(rpc.into_inner(), self.broker.clock.now(), id)?;
        let turn = simulate::take_turn(&self.broker).map_err(|error| status::of(error, id))?;
        let since = asked.since;
        let (tell, events) = tokio::sync::mpsc::channel(16);
        let broker = Arc::clone(&self.broker);
        self.broker.tracker.spawn(async move {
            if let Err(error) = simulate::simulate(&broker, &admin, turn, asked, &tell).await {
                // Whoever left does not ask why it ended.
                let _ = tell.send(Err(error)).await;
            }
        });
        Ok(Response::new(Box::pin(simulation::told(events, since, id))))
    }
}

fn supposed(wire: v1::Hypothesis, id: RequestId) -> Result<Supposed, Status> {
    let invalid = |message: String| {
        status::invalid("HYPOTHESIS_INVALID", message, "`dayfly help explain` shows what can be supposed", id)
    };
    let asker = (!wire.spiffe_id.is_empty()).then(|| spiffe_id(&wire.spiffe_id, id)).transpose()?;
    let via = match wire.via.as_str() {
        "" | "agent" => ViaRule::Agent,
        "direct" => ViaRule::Direct,
        _ => return Err(invalid("via is `agent` or `direct`".to_owned())),
    };
    if wire.under.len() > MOST_ABOVE {
        return Err(invalid(format!("at most {MOST_ABOVE} tasks stand above")));
    }
    let stand = match wire.task_id.is_empty() {
        true => {
            let above: Result<_, Status> = wire.under.iter().map(|text| spiffe_id(text, id)).collect();
            Stand::Under(above?, via)
        }
        false if wire.under.is_empty() && wire.via.is_empty() => {
            Stand::Task(wire::task_id(&wire.task_id, id)?)
        }
        false => return Err(invalid("a task that is there has its own way and tasks above".to_owned())),
    };
    let act = match (wire.action.is_empty(), &wire.artifact) {
        (true, None) => None,
        (false, Some(_)) => Some(wire::act(wire.action, wire.artifact, id)?),
        _ => return Err(invalid("an action is on an artifact: name both".to_owned())),
    };
    let ask = wire.scope.map(|scope| wire::ask(Some(scope), id)).transpose()?;
    Ok(Supposed { asker, stand, ask, ttl: wire::span(wire.ttl, id)?, act })
}

fn chosen(wire: HashMap<String, String>, id: RequestId) -> Result<Parameters, Status> {
    let too_long =
        |(name, value): (&String, &String)| name.len() > LONGEST_TEXT || value.len() > LONGEST_TEXT;
    if wire.len() > MAX_PARAMETERS || wire.iter().any(too_long) {
        let message =
            format!("at most {MAX_PARAMETERS} parameters of at most {LONGEST_TEXT} bytes are taken");
        return Err(status::invalid("PARAMETER_INVALID", message, "shorten the parameters", id));
    }
    Ok(wire.into_iter().collect())
}

pub(super) fn spiffe_id(text: &str, id: RequestId) -> Result<SpiffeId, Status> {
    text.parse().map_err(|fault: dayfly_domain::spiffe::NotASpiffeId| {
        let next = "write it like spiffe://example.org/training/llm";
        status::invalid("SPIFFE_ID_INVALID", format!("not a workload's SPIFFE ID: {fault}"), next, id)
    })
}

pub(super) fn nothing_asked(what: &str, id: RequestId) -> Status {
    status::invalid("NOTHING_ASKED", format!("the question names nothing: {what} is wanted"), "name one", id)
}
