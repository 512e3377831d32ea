"""Runs programs in tasks, ends some and kills others, and measures when their credentials are refused.

`scripts/demo` starts it. Each program is one of `examples/`, untouched. For each task it is seen when its credential was
issued and used, when the task ended, when the target confirmed the end, and when the credential was first refused. The
probe plays a thief of the same user: it takes the token out of the task's file while the task lives, and shows it to the
service before and after the end. What a thief cannot take, because the agent gives it to processes of the task only, is
tried once from outside.
"""

import argparse
import contextlib
import json
import os
import pathlib
import sys
import urllib.parse

import report
from programs import run_tasks
from world import World


def main():
    options = arguments()
    print("\nStarting Dayfly, a local AWS endpoint and a service that checks tokens.")
    with contextlib.ExitStack() as stack:
        world = World(options, stack)
        tasks = run_tasks(world)
        world.settle(tasks)
        attempts = world.outsiders
        chain = world.dayfly("audit", "verify")
        report.timeline(world, tasks, attempts, chain)
        totals = report.count(tasks, world)
        report.tell(totals, tasks)
        if options.json:
            print(json.dumps(totals, separators=(",", ":")))
        return report.verdict(totals, tasks, attempts)


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__.splitlines()[0])
    parser.add_argument("--bin", type=pathlib.Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--tasks", type=int, default=20, metavar="N", help="tasks per provider")
    parser.add_argument("--vault", default=os.environ.get("DAYFLY_TEST_VAULT_ADDR"), metavar="URL")
    parser.add_argument(
        "--vault-token-file", default=os.environ.get("DAYFLY_TEST_VAULT_TOKEN_FILE"), metavar="FILE"
    )
    parser.add_argument("--keep", action="store_true", help="keep keys, state and logs")
    options = parser.parse_args()
    options.bin = options.bin.resolve()
    if options.vault and not options.vault_token_file:
        parser.error("--vault needs --vault-token-file")
    host = urllib.parse.urlsplit(options.vault or "").hostname
    if options.vault and host not in ("127.0.0.1", "::1"):
        parser.error(f"--vault: {host} is not this machine; the demo takes only http://127.0.0.1:PORT")
    return options


if __name__ == "__main__":
    sys.exit(main())
