//! A broker's QuestionService that knows one review by heart, and breaks off when it simulates.

use dayfly_client::v1::{self, question_service_server::QuestionService};
use tonic::{Request, Response, Status};

use super::admin::FakeBroker;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl QuestionService for FakeBroker {
    async fn explain(&self, _: Request<v1::ExplainRequest>) -> Answer<v1::ExplainResponse> {
        Err(Status::unimplemented("explain"))
    }

    async fn reach(&self, _: Request<v1::ReachRequest>) -> Answer<v1::ReachResponse> {
        Err(Status::unimplemented("reach"))
    }

    async fn who_can(&self, _: Request<v1::WhoCanRequest>) -> Answer<v1::WhoCanResponse> {
        Err(Status::unimplemented("who_can"))
    }

    async fn review(&self, _: Request<v1::ReviewRequest>) -> Answer<v1::ReviewResponse> {
        Ok(Response::new(self.with(|state| state.review.clone())))
    }

    type SimulateStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::SimulateResponse, Status>>>;

    async fn simulate(&self, _: Request<v1::SimulateRequest>) -> Answer<Self::SimulateStream> {
        use v1::simulate_response::Event;
        let read = v1::SimulationProgress { records: 200, ..Default::default() };
        let events = [Event::Proposal(v1::SimulatedProposal::default()), Event::Progress(read)];
        let told = events.map(|event| Ok(v1::SimulateResponse { event: Some(event) }));
        Ok(Response::new(tokio_stream::iter(told.into_iter().collect::<Vec<_>>())))
    }
}
