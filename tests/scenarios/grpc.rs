//! A workload that speaks gRPC itself, at the agent's socket, and says what came back.

use std::path::PathBuf;

use harness::{Program, Python, Uid, World};

use crate::life::under_run;

/// Waits for the file `WAIT_FOR` if there is to be one, asks for `kb-read`, renews it if told to, says `done` and lives until it is killed.
const ASK: &str = r#"
import os, re, sys, time
import grpc
from dayfly.v1 import credential_pb2 as pb
from dayfly.v1 import credential_pb2_grpc as rpc
from dayfly.v1 import scope_pb2
task = os.environ["DAYFLY_TASK_ID"]
host = [("grpc.default_authority", "localhost")]
dayfly = rpc.CredentialServiceStub(grpc.insecure_channel("unix:" + os.environ["DAYFLY_AGENT_SOCKET"], options=host))
while os.environ.get("WAIT_FOR") and not os.path.exists(os.environ["WAIT_FOR"]):
    print("waiting", flush=True)
    time.sleep(0.05)
try:
    scope = scope_pb2.ScopeRequest(scope="kb-read")
    issued = dayfly.IssueCredential(pb.IssueCredentialRequest(task_id=task, scope=scope), timeout=15)
    print("issued", issued.lease_id, flush=True)
    if "renew" in sys.argv:
        dayfly.RenewLease(pb.RenewLeaseRequest(task_id=task, lease_id=issued.lease_id), timeout=15)
        print("renewed", flush=True)
except grpc.RpcError as refusal:
    details = dict(refusal.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    reasons = re.findall(rb"[A-Z]+(?:_[A-Z]+)+", details)
    print("refused", refusal.code().name, reasons[0].decode() if reasons else "-", refusal.details())
print("done", flush=True)
time.sleep(600)
"#;

/// The Python modules made from our protos.
pub async fn stubs(world: &World) -> PathBuf {
    let stubs = world.scratch.folder("stubs", 0o755).unwrap();
    let protos = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let outputs = ["--python_out", "--grpc_python_out"].map(|out| format!("{out}={}", stubs.display()));
    let protoc = Python::find().unwrap().module("grpc_tools.protoc").arg(format!("-I{}", protos.display()));
    let protoc = protoc.args(outputs).args(["dayfly/v1/scope.proto", "dayfly/v1/credential.proto"]);
    protoc.output().await.unwrap();
    stubs
}

/// The workload, under `dayfly run`.
pub fn asker(world: &World, uid: Uid, stubs: &std::path::Path, renew: bool) -> Program {
    let program = under_run(world, uid, &["--scope", "kb-read"], ASK).env("PYTHONPATH", stubs);
    if renew { program.arg("renew") } else { program }
}
