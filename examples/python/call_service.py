"""Calls a service with the token of its task, and with its own X.509-SVID.

    dayfly run --scope call-service -- python call_service.py https://127.0.0.1:8443/notes
"""

import argparse
import http.client
import os
import pathlib
import sys
import time
import urllib.parse

from svid import Svid, peer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("--service-id", default="spiffe://dev.dayfly/tool/service")
parser.add_argument("--times", type=int, default=3)
parser.add_argument("--pause", type=float, default=0.2, help="seconds between two calls")
options = parser.parse_args()


def token():
    """The task's token, read anew each time: the agent puts a fresh one there before the old one runs out."""
    path = pathlib.Path(os.environ["DAYFLY_TOKEN_FILE"])
    # It is issued to this very program, so it comes some milliseconds after the program has begun.
    deadline = time.monotonic() + 10
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return path.read_text().strip()


url = urllib.parse.urlsplit(options.url)
connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=10, context=Svid().client())
connection.connect()
if peer(connection.sock) != options.service_id:
    sys.exit(f"{url.netloc} is {peer(connection.sock)}, not {options.service_id}: the token stays here")
for call in range(options.times):
    if call:
        time.sleep(options.pause)
    connection.request("GET", url.path, headers={"Authorization": f"Bearer {token()}"})
    answer = connection.getresponse()
    body = answer.read().decode()
    if answer.status != 200:
        sys.exit(f"call {call}: {answer.status} {body}")
    print(f"call {call}: {body}", flush=True)
