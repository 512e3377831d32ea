"""Opens a task, gets a token and ends the task, in plain gRPC at the node agent's socket.

The agent knows this process from the kernel, so no secret is needed to speak to it. Stubs are made from `proto/`:

    python -m grpc_tools.protoc -I proto --python_out=stubs --grpc_python_out=stubs \\
        dayfly/v1/scope.proto dayfly/v1/credential.proto
    PYTHONPATH=stubs python grpc_task.py --scope call-service
"""

import argparse
import json
import os
import sys

import grpc
from dayfly.v1 import credential_pb2 as pb
from dayfly.v1 import credential_pb2_grpc as rpc
from dayfly.v1 import scope_pb2


def parameter(text):
    """`name=value` of the command line."""
    name, sign, value = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError("write name=value")
    return name, value


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--agent", default=os.environ.get("DAYFLY_AGENT_SOCKET", "/run/dayfly/agent.sock"))
parser.add_argument("--scope", required=True)
parser.add_argument("--param", type=parameter, action="append", default=[], metavar="NAME=VALUE")
options = parser.parse_args()

scope = scope_pb2.ScopeRequest(scope=options.scope, parameters=dict(options.param))
# Without this grpcio sends the socket's path as the host's name, which the agent refuses as none (RFC 3986 §3.2.2).
host = [("grpc.default_authority", "localhost")]
with grpc.insecure_channel(f"unix:{options.agent}", options=host) as channel:
    dayfly = rpc.CredentialServiceStub(channel)
    try:
        task = dayfly.OpenTask(
            pb.OpenTaskRequest(ceiling=[scope], intent="show how a program speaks gRPC itself"), timeout=10
        )
        issued = dayfly.IssueCredential(pb.IssueCredentialRequest(task_id=task.task_id, scope=scope), timeout=10)
        # Here the work would be done, with issued.token.access_token towards issued.token.audience.
        kind = issued.WhichOneof("credential")
        ended = dayfly.EndTask(pb.EndTaskRequest(task_id=task.task_id), timeout=10)
    except grpc.RpcError as refusal:
        sys.exit(f"{refusal.code().name}: {refusal.details()}")

print(
    json.dumps(
        {
            "task": task.task_id,
            "lease": issued.lease_id,
            "credential": kind,
            "audience": issued.token.audience,
            "expires_at": issued.expires_at.ToJsonString(),
            "ended_tasks": ended.tasks_ended,
            "queued_leases": ended.leases_queued,
        }
    )
)
