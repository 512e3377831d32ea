"""A tool that works for whoever handed the task on, and shows for whom.

    dayfly run --claim TASK -- python search_tool.py
"""

import argparse
import base64
import json
import os
import pathlib
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--hold", type=float, default=0, help="seconds to go on working")
options = parser.parse_args()

path = pathlib.Path(os.environ["DAYFLY_TOKEN_FILE"])
deadline = time.monotonic() + 20
while not path.exists() and time.monotonic() < deadline:
    time.sleep(0.05)
token = path.read_text().strip()
payload = token.split(".")[1]
claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
# RFC 8693, section 4.1: who is behind the subject, nearest first.
print("sub", claims["sub"])
print("act", json.dumps(claims.get("act"), sort_keys=True))
print("token file", path, flush=True)
time.sleep(options.hold)
