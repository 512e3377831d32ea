"""Hands a search on to a tool: opens a task that the tool alone can claim, tells its id, and waits.

    dayfly run --scope index-query --param collection=papers-1 -- \
        python planner.py spiffe://example.org/tool/search --scope index-query --param collection=papers-1

The planner itself gets no credential of the scope: its binding hands on and does not use.
"""

import argparse
import json
import subprocess
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("to", help="SPIFFE ID of the tool")
parser.add_argument("--scope", required=True)
parser.add_argument("--param", action="append", default=[])
parser.add_argument("--claim-within", default="30s")
parser.add_argument("--hold", type=float, default=60, help="seconds to wait for the tool; its task ends with this one")
parser.add_argument("--dayfly", default="dayfly")
options = parser.parse_args()

command = [options.dayfly, "-o", "json", "delegate", "--to", options.to, "--claim-within", options.claim_within]
command += ["--scope", options.scope]
for param in options.param:
    command += ["--param", param]
offered = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
print("claim until", offered["claim_until"])
# The id is no secret: send it to the tool with the job.
print("task", offered["task_id"], flush=True)
time.sleep(options.hold)
