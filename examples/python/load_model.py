"""Loads a model from a guard, with a receipt for its very bytes, and its own X.509-SVID.

    dayfly run --scope model-load --param model=tiny --param digest=$DIGEST -- \\
        python load_model.py https://127.0.0.1:8460 models/tiny --digest sha256:$DIGEST

It asks the agent itself, over gRPC: a receipt is good in the hands of the process that asked for it, as finely as SPIRE
tells processes apart. `dayfly check` may be another identity.
"""

import argparse
import hashlib
import http.client
import os
import sys
import urllib.parse

import grpc
from dayfly.v1 import credential_pb2 as pb
from dayfly.v1 import credential_pb2_grpc as rpc
from svid import Svid, peer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("name")
parser.add_argument("--digest", required=True)
parser.add_argument("--guard-id", default="spiffe://dev.dayfly/tool/service")
options = parser.parse_args()


def receipt():
    """The broker's word that this process may load this model, for this guard. Good once, within a minute."""
    host = [("grpc.default_authority", "localhost")]
    with grpc.insecure_channel(f"unix:{os.environ['DAYFLY_AGENT_SOCKET']}", options=host) as channel:
        asked = pb.AuthorizeRequest(
            task_id=os.environ["DAYFLY_TASK_ID"],
            action="load-model",
            artifact=pb.Artifact(name=options.name, digest=options.digest),
            receipt_audience=options.guard_id,
        )
        try:
            return rpc.CredentialServiceStub(channel).Authorize(asked, timeout=10).receipt
        except grpc.RpcError as refusal:
            sys.exit(f"{refusal.code().name}: {refusal.details()}")


url = urllib.parse.urlsplit(options.url)
connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=10, context=Svid().client())
connection.connect()
if peer(connection.sock) != options.guard_id:
    sys.exit(f"{url.netloc} is {peer(connection.sock)}, not {options.guard_id}: the receipt stays here")
headers = {"Authorization": f"Dayfly-Receipt {receipt()}"}
connection.request("GET", f"/artifacts/{options.name}", headers=headers)
answer = connection.getresponse()
body = answer.read()
if answer.status != 200:
    sys.exit(f"{answer.status} {body.decode().strip()}")
# The guard compared it as well; whoever loads need not believe that.
if f"sha256:{hashlib.sha256(body).hexdigest()}" != options.digest:
    sys.exit("the guard handed out something else")
print(f"loaded {options.name}: {len(body)} bytes")
