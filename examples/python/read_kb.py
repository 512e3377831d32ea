"""Reads a secret from Vault, again and again. Plain hvac: nothing in here knows Dayfly.

    dayfly run --scope kb-read -- python read_kb.py --mount dayfly-demo --path kb/hello
"""

import argparse
import time

import hvac

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--mount", default="secret")
parser.add_argument("--path", default="kb/hello")
parser.add_argument("--times", type=int, default=3)
parser.add_argument("--pause", type=float, default=0.2, help="seconds between two reads")
options = parser.parse_args()

# Address and token come from VAULT_ADDR and VAULT_TOKEN, as always.
vault = hvac.Client()
for time_no in range(options.times):
    if time_no:
        time.sleep(options.pause)
    answer = vault.secrets.kv.v2.read_secret_version(
        path=options.path, mount_point=options.mount, raise_on_deleted_version=True
    )
    print(f"read {time_no}: keys {', '.join(sorted(answer['data']['data']))}", flush=True)
