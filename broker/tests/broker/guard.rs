//! The guard of `examples/guard`, over real mutual TLS, on the word of receipts that this broker signed.

#[path = "../../../examples/guard/guard.rs"]
mod example;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dayfly_broker::signer::{FileSigner, Signer, Use};
use dayfly_client::receipt::ReceiptFault;
use dayfly_client::{
    BrokerClient, ClientTls, Identity, Incoming, IncomingLimits, ServerTls, Speaks, SpiffeId, TrustDomain,
};
use dayfly_proto::v1;
use example::Guard;
use http::StatusCode;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::authorize::{ARTIFACTS, GUARD, issuer, jwks, load, open_with};
use crate::world::{NODE, TRAINER, World};

const OTHER_GUARD: &str = "spiffe://example.org/tool/other-models";
const OTHER_WORKLOAD: &str = "spiffe://example.org/train/b";
const WEIGHTS: &[u8] = b"the weights of a small llama";
const OTHER_WEIGHTS: &[u8] = b"the weights of a small phi";

/// A guard that listens, and the folder it guards.
struct Place {
    identity: Identity,
    guard: Arc<Guard>,
    address: SocketAddr,
    folder: PathBuf,
    serving: JoinHandle<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Place {
    async fn new(world: &mut World, id: &str) -> Self {
        let identity = world.identity(id).await;
        let folder = world.folder.path().join(id.rsplit('/').next().unwrap());
        std::fs::create_dir_all(folder.join("models")).unwrap();
        std::fs::write(folder.join("models/llama"), WEIGHTS).unwrap();
        std::fs::write(folder.join("models/phi"), OTHER_WEIGHTS).unwrap();
        std::os::unix::fs::symlink("llama", folder.join("models/link")).unwrap();
        let own = identity.spiffe_id().clone();
        let guard = Arc::new(Guard::new(own, &issuer(), &jwks(world), &folder, world.folder.path()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = ServerTls::new(&identity, &[TrustDomain::new("example.org").unwrap()], Speaks::Http1Or2);
        let connections = Incoming::new(listener, tls.unwrap(), IncomingLimits::default());
        let serving = tokio::spawn(Arc::clone(&guard).serve(connections));
        Place { identity, guard, address, folder, serving }
    }

    /// What the guard answers this workload.
    async fn asked(&self, workload: &Identity, name: &str, receipt: &str) -> (StatusCode, Bytes, String) {
        let tls = ClientTls::new(workload, std::slice::from_ref(self.identity.spiffe_id())).unwrap();
        let (io, _) = tls.connect(TcpStream::connect(self.address).await.unwrap()).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let mut request = http::Request::get(format!("https://guard/artifacts/{name}"));
        if !receipt.is_empty() {
            request = request.header(AUTHORIZATION, format!("Dayfly-Receipt {receipt}"));
        }
        let answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let challenge =
            answer.headers().get(WWW_AUTHENTICATE).map(|value| value.to_str().unwrap().to_owned());
        let status = answer.status();
        (status, answer.into_body().collect().await.unwrap().to_bytes(), challenge.unwrap_or_default())
    }

    async fn refused(&self, workload: &Identity, name: &str, receipt: &str) -> String {
        let (status, body, _) = self.asked(workload, name, receipt).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{body:?}");
        let words = String::from_utf8(body.to_vec()).unwrap();
        words.trim_end().strip_prefix("the receipt is not good here: ").unwrap().to_owned()
    }
}

fn hex(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

async fn receipt(node: &BrokerClient, request: v1::AuthorizeRequest) -> String {
    node.credentials().authorize(request).await.unwrap().into_inner().receipt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_hands_out_the_very_bytes_of_the_receipt_to_its_workload_once() {
    let mut world = World::new().await;
    world.apply(ARTIFACTS).await;
    let place = Place::new(&mut world, GUARD).await;
    let elsewhere = Place::new(&mut world, OTHER_GUARD).await;
    let (trainer, thief) = (world.identity(TRAINER).await, world.identity(OTHER_WORKLOAD).await);
    let node = world.connect(NODE).await;
    let (llama, phi) = (hex(WEIGHTS), hex(OTHER_WEIGHTS));
    let task = open_with(&world, &node, &[("llama", &llama), ("phi", &llama)]).await;
    let told = |fault: ReceiptFault| fault.to_string();

    let good = receipt(&node, load(&world, &task, "models/llama", &llama)).await;
    // Before anybody used it: somebody else, another model, another guard.
    assert_eq!(place.refused(&thief, "models/llama", &good).await, told(ReceiptFault::Peer));
    assert_eq!(place.refused(&trainer, "models/phi", &good).await, told(ReceiptFault::Name));
    assert_eq!(elsewhere.refused(&trainer, "models/llama", &good).await, told(ReceiptFault::Audience));
    let (status, bytes, _) = place.asked(&trainer, "models/llama", &good).await;
    assert_eq!((status, &bytes[..]), (StatusCode::OK, WEIGHTS));
    assert_eq!(place.refused(&trainer, "models/llama", &good).await, told(ReceiptFault::Replayed));

    let (status, _, challenge) = place.asked(&trainer, "models/llama", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(
        challenge,
        format!("Dayfly-Receipt audience=\"{GUARD}\""),
        "it says whom to ask a receipt for"
    );
    let forged = format!("{}x", &good[..good.len() - 1]);
    let refused = place.refused(&trainer, "models/llama", &forged).await;
    assert!([told(ReceiptFault::Signature), told(ReceiptFault::Malformed)].contains(&refused), "{refused}");

    // The file is not what the receipt is for: never was, or is no longer.
    let stale = receipt(&node, load(&world, &task, "models/phi", &llama)).await;
    assert_ne!(llama, phi);
    assert_eq!(place.refused(&trainer, "models/phi", &stale).await, told(ReceiptFault::Digest));
    let good = receipt(&node, load(&world, &task, "models/llama", &llama)).await;
    std::fs::write(place.folder.join("models/llama"), b"poisoned weights").unwrap();
    assert_eq!(place.refused(&trainer, "models/llama", &good).await, told(ReceiptFault::Digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_takes_no_old_receipt_no_credential_and_no_way_out_of_its_folder() {
    let mut world = World::new().await;
    let short = ARTIFACTS.replace(
        "  target:\n    artifact: {actions: [load-model]",
        "  ttl: {default: 2s, max: 2s}\n  target:\n    artifact: {actions: [load-model]",
    );
    assert_ne!(short, ARTIFACTS);
    world.apply(&short.replace("[llama, phi]", "[llama, gone, link]")).await;
    let place = Place::new(&mut world, GUARD).await;
    let trainer = world.identity(TRAINER).await;
    let node = world.connect(NODE).await;
    let llama = hex(WEIGHTS);
    let task = open_with(&world, &node, &[("llama", &llama), ("gone", &llama), ("link", &llama)]).await;

    let early = receipt(&node, load(&world, &task, "models/llama", &llama)).await;
    tokio::time::sleep(Duration::from_millis(2100)).await;
    assert_eq!(place.refused(&trainer, "models/llama", &early).await, ReceiptFault::Expired.to_string());
    for (name, status) in
        [("gone", StatusCode::NOT_FOUND), ("link", StatusCode::NOT_FOUND), ("llama", StatusCode::OK)]
    {
        let name = format!("models/{name}");
        let good = receipt(&node, load(&world, &task, &name, &llama)).await;
        assert_eq!(place.asked(&trainer, &name, &good).await.0, status, "{name}");
    }
    // An access token of the same workload, for the same SPIFFE ID, from the same broker.
    world
        .apply(&format!(
            "kind: Scope\nmetadata: {{name: ask-guard}}\nspec:\n  stages: [training]\n  target: {{token: {{audience: \"{GUARD}\", \
             checked: offline}}}}\n---\nkind: Binding\nmetadata: {{name: ask-guard}}\nspec: {{identities: [\"{TRAINER}\"], \
             scope: ask-guard}}\n"
        ))
        .await;
    let open = v1::OpenTaskRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        ceiling: vec![crate::world::scope("ask-guard", &[])],
        anchor: Some(crate::world::anchor()),
        ..Default::default()
    };
    let task_id = node.credentials().open_task(open).await.unwrap().into_inner().task_id;
    let issue = v1::IssueCredentialRequest {
        subject_token: world.subject_token(TRAINER, NODE),
        task_id,
        scope: Some(crate::world::scope("ask-guard", &[])),
        ..Default::default()
    };
    let issued = node.credentials().issue_credential(issue).await.unwrap().into_inner();
    let Some(v1::issue_credential_response::Credential::Token(token)) = issued.credential else {
        panic!("an access token was asked for");
    };
    assert_eq!(
        place.refused(&trainer, "models/llama", &token.access_token).await,
        ReceiptFault::Kind.to_string()
    );
    // The issuer's keys were replaced.
    let stranger = FileSigner::open(&world.folder.path().join("other-keys")).unwrap();
    let good = receipt(&node, load(&world, &task, "models/llama", &llama)).await;
    place.guard.update_jwks(&stranger.jwks(Use::Receipt).to_string()).unwrap();
    assert_eq!(place.refused(&trainer, "models/llama", &good).await, ReceiptFault::UnknownKey.to_string());
    let own = SpiffeId::new(GUARD).unwrap();
    assert!(Guard::new(own, &issuer(), "{\"keys\":[]}", &place.folder, &place.folder).is_err());
}
