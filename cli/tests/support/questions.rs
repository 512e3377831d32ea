//! A broker's QuestionService that knows one review by heart.

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
}
