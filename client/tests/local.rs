//! The clients for local sockets: plain, and connected by the calling process itself.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

mod support;

use std::sync::{Arc, Mutex};

use dayfly_client::{AgentClient, BreakGlassClient, ConnectError, EndpointError, chain, v1};
use support::Says;
use tokio::net::UnixListener;
use tokio_stream::{StreamExt, wrappers::UnixListenerStream};

#[tokio::test]
async fn the_agent_sees_the_calling_process_itself() {
    let home = tempfile::tempdir().unwrap();
    let socket = support::path(&home, "agent.sock");
    let callers = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&callers);
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap()).map(move |accepted| {
        accepted.inspect(|stream| seen.lock().unwrap().push(stream.peer_cred().unwrap().pid().unwrap()))
    });
    let service =
        v1::credential_service_server::CredentialServiceServer::new(Says { streams: Arc::default() });
    let router = tonic::transport::Server::builder().add_service(service);
    let serving = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });

    let agent = AgentClient::connect(&socket).await.unwrap();
    agent.credentials().open_task(v1::OpenTaskRequest::default()).await.unwrap();
    assert_eq!(*callers.lock().unwrap(), [i32::try_from(std::process::id()).unwrap()]);

    // Not our service: the answer shows that the connection stands.
    let admin = BreakGlassClient::connect(&socket).await.unwrap();
    let refused = admin.admin().list_nodes(v1::ListNodesRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unimplemented);
    serving.abort();
}

#[tokio::test]
async fn an_agent_that_is_not_there_is_said_to_be_so() {
    let home = tempfile::tempdir().unwrap();
    let error = AgentClient::connect(support::path(&home, "agent.sock")).await.unwrap_err();
    assert!(chain(&error).contains("nothing answers at unix:"), "{}", chain(&error));

    let error = AgentClient::connect("run/agent.sock").await.unwrap_err();
    assert!(matches!(error, ConnectError::Endpoint(EndpointError::UnixPath { .. })), "{error:?}");
}
