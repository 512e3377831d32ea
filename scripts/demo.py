"""Runs programs in tasks, ends some and kills others, and measures when their credentials are refused.

`scripts/demo` starts it. Each program is one of `examples/`, untouched. For each task it is seen when its credential was
issued and used, when the task ended, when the target confirmed the end, and when the credential was first refused. The
probe plays a thief of the same user: it takes the token out of the task's file while the task lives, and shows it to the
service before and after the end. What a thief cannot take, because the agent gives it to processes of the task only, is
tried once from outside.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import datetime
import http.client
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "python"
# Programs that start at once; each takes most of a core for some hundred milliseconds.
STARTS = 4
# A lease that is neither verified nor declared to run out by then is told as it stands.
SETTLE_WITHIN = 20.0
# A credential that still works so long after the end of its task has outlived it.
REFUSED_WITHIN = 20.0


def main():
    options = arguments()
    print("\nStarting Dayfly, a local AWS endpoint and a service that checks tokens.")
    with contextlib.ExitStack() as stack:
        site = Site(options, stack)
        tasks = run_tasks(site)
        site.settle(tasks)
        attempts = site.outsiders
        chain = site.dayfly("audit", "verify")
        timeline(site, tasks, attempts, chain)
        totals = count(tasks, site)
        tell(totals, tasks)
        if options.json:
            print(json.dumps(totals, separators=(",", ":")))
        return verdict(totals, tasks, attempts)


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
    if options.vault and not options.vault_token_file:
        parser.error("--vault needs --vault-token-file")
    host = urllib.parse.urlsplit(options.vault or "").hostname
    if options.vault and host not in ("127.0.0.1", "::1"):
        parser.error(f"--vault: {host} is not this machine; the demo takes only http://127.0.0.1:PORT")
    return options


# ---- what runs ------------------------------------------------------------------------------------------------------


class Site:
    """Dayfly, moto and the service, running; and what the tasks need to know of them."""

    def __init__(self, options, stack):
        self.options = options
        self.stack = stack
        self.folder = self.make_folder()
        self.stubs()
        self.base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ", "XDG_RUNTIME_DIR") if name in os.environ}
        self.base |= {
            "PYTHONPATH": str(self.folder / "stubs"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": "us-east-1",
        }
        moto_port = free_port()
        self.moto = f"http://127.0.0.1:{moto_port}"
        self.base["AWS_ENDPOINT_URL"] = self.moto
        self.spawn("moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto_port)], self.base)
        self.vault = Vault(options) if options.vault else None
        self.start_dayfly()
        # A scope is applied only if its target answers.
        self.fill_bucket()
        self.apply("laptop-aws.yaml")
        if self.vault:
            stack.callback(self.vault.clean)
            self.vault.set_up(json.loads((self.state / "spiffe" / "bundle.json").read_text()))
            # The broker's first logins failed, before there was anything to log in to; it tries again.
            wait_for(lambda: self.apply("laptop-vault.yaml"), 20, "a login at Vault")
        self.service = self.start_service()
        self.outsiders = []
        # The service's probes are made as the same user that the tasks run as.
        sys.path[:0] = [str(self.folder / "stubs"), str(EXAMPLES)]
        os.environ["SPIFFE_ENDPOINT_SOCKET"] = self.env["SPIFFE_ENDPOINT_SOCKET"]
        import svid

        self.me = svid.Svid()
        self.began = time.time()

    def make_folder(self):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="dayfly-demo-"))
        if self.options.keep:
            print(f"  everything is kept in {folder}")
        else:
            self.stack.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def stubs(self):
        """What protoc makes of the proto of the SPIFFE Workload API, for the examples' own identity."""
        out = self.folder / "stubs"
        out.mkdir()
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ROOT / "devspiffe/proto"]
        command += [f"--python_out={out}", f"--grpc_python_out={out}", "workload.proto"]
        subprocess.run(command, check=True)

    def spawn(self, name, command, env):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen(
            command, env=env, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        self.stack.callback(end, process)
        return process

    def start_dayfly(self):
        self.state = self.folder / ".dayfly"
        command = [self.options.bin / "dayfly", "dev", "--dir", self.state, "--aws-endpoint", self.moto]
        if self.vault:
            command += ["--vault", self.vault.address]
        process = self.spawn("dayfly", command, self.base)
        deadline = time.monotonic() + 60
        while True:
            told = subprocess.run(
                [self.options.bin / "dayfly", "dev", "env", "--dir", self.state],
                env=self.base, capture_output=True, text=True,
            )
            if told.returncode == 0:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"`dayfly dev` did not start:\n{(self.folder / 'dayfly.log').read_text()}")
            time.sleep(0.1)
        exports = re.findall(r"export (\w+)='(.*)'", told.stdout)
        self.env = self.base | dict(exports)
        print("  " + (self.folder / "dayfly.log").read_text().splitlines()[0])

    def dayfly(self, *words):
        """An admin verb; its output."""
        command = [self.options.bin / "dayfly", *words]
        done = subprocess.run(command, env=self.env, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"dayfly {' '.join(map(str, words))} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def apply(self, name):
        self.dayfly("apply", "--yes", "-f", ROOT / "deploy" / "examples" / name)
        print(f"  applied {name}")

    def start_service(self):
        env = self.env | {"SPIFFE_ENDPOINT_SOCKET": self.env["DAYFLY_DEV_SERVICE_API"]}
        process = subprocess.Popen(
            [sys.executable, EXAMPLES / "checking_service.py"],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )
        self.stack.callback(end, process)
        line = process.stdout.readline().strip()
        if not line:
            sys.exit("the service that checks tokens did not start")
        print(f"  service {line}")
        return urllib.parse.urlsplit(line.split(" at ")[1])

    def fill_bucket(self):
        import boto3

        wait_for(lambda: urllib.request.urlopen(f"{self.moto}/moto-api/data.json", timeout=5), 60, "moto")
        s3 = boto3.client(
            "s3", "us-east-1", endpoint_url=self.moto, aws_access_key_id="demo", aws_secret_access_key="demo"
        )
        s3.create_bucket(Bucket="datasets")
        s3.put_object(Bucket="datasets", Key="corpus-7/part-0", Body=b"text" * 1000)

    def leases(self):
        """Every lease by its id, as the broker tells it."""
        told = json.loads(self.dayfly("lease", "list", "--all", "--limit", "1000", "-o", "json"))
        return {lease["lease_id"]: lease for lease in told["leases"]}

    def settle(self, tasks):
        """Waits until every lease is verified or declared to run out."""
        deadline = time.monotonic() + SETTLE_WITHIN
        while True:
            leases = self.leases()
            by_task = {}
            for lease in leases.values():
                by_task.setdefault(lease["task_id"], []).append(lease)
            open_ones = [lease for lease in leases.values() if standing(lease) is None]
            if not open_ones or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for task in tasks:
            task.leases = by_task.pop(task.id, [])
        self.strays = [lease for rest in by_task.values() for lease in rest]


def standing(lease):
    """`verified`, `runs_out`, `never_issued`, or None while the broker is still at it."""
    if lease["state"] == "ended":
        return {"ran_out": "runs_out"}.get(lease["outcome"], lease["outcome"])
    if lease["state"] == "revoking" and lease["runs_out_at"]:
        return "runs_out"
    return None


# ---- tasks ----------------------------------------------------------------------------------------------------------


class Task:
    """One program in one task, from its start to the refusal of what it was given."""

    def __init__(self, provider, killed):
        self.provider = provider
        self.killed = killed
        self.id = "?"
        self.leases = []
        self.used_at = self.ended_at = self.refused_ms = None
        self.outlived = False
        self.failure = None

    def run(self, site):
        try:
            self._run(site)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and fails the demo
            self.failure = self.failure or f"{type(error).__name__}: {error}"
        return self

    def _run(self, site):
        with STARTING:
            self.process = subprocess.Popen(
                [site.options.bin / "dayfly", "run", *self.scope(), "--", sys.executable, *self.program(site)],
                env=site.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            first = self.process.stdout.readline()
        if not first:
            self.process.wait()
            self.failure = f"the program ended with {self.process.returncode}: {self.process.stderr.read().strip()[-400:]}"
            return
        self.used_at = time.time()
        self.environment = environment_of(self.process.pid)
        self.id = self.environment.get("DAYFLY_TASK_ID", "?")
        probe = self.probe(site)
        if probe and not probe():
            self.failure = "the credential was refused while its task was alive"
        # Somebody must read what the program prints, or it would wait for that.
        reader = threading.Thread(target=self.process.stdout.read, daemon=True)
        reader.start()
        if self.killed:
            time.sleep(random.uniform(0.3, 2.0))
            end, self.ended_at = time.monotonic(), time.time()
            self.process.kill()
        self.process.wait()
        if not self.killed:
            end, self.ended_at = time.monotonic(), time.time()
        ended_well = self.process.returncode == (-signal.SIGKILL if self.killed else 0)
        if not ended_well:
            self.failure = f"the program ended with {self.process.returncode}: {self.process.stderr.read().strip()[-400:]}"
        if probe:
            self.refused_ms = first_refusal(probe, end)
            self.outlived = self.refused_ms is None

    def repeats(self):
        """A program that is to be killed works on and on; the others finish by themselves."""
        return 100_000 if self.killed else random.randint(3, 8)


class TokenTask(Task):
    """An access token for a service that asks the broker about it."""

    def scope(self):
        return ["--scope", "call-service"]

    def program(self, site):
        return [EXAMPLES / "call_service.py", site.service.geturl(), "--times", str(self.repeats())]

    def probe(self, site):
        token = pathlib.Path(self.environment["DAYFLY_TOKEN_FILE"]).read_text().strip()
        self.lease_id = claims(token)["jti"]
        connection = http.client.HTTPSConnection(site.service.hostname, site.service.port, context=site.me.client())

        def works():
            connection.request("GET", site.service.path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            answer.read()
            if answer.status not in (200, 401):
                raise RuntimeError(f"the service answers {answer.status}")
            return answer.status == 200

        return works


class AwsTask(Task):
    """An AWS session, for boto3. The endpoint gives it to processes of the task only, so no thief is played."""

    def scope(self):
        return ["--scope", "s3-train-read", "--param", "dataset=corpus-7"]

    def program(self, site):
        return [EXAMPLES / "train.py", "--epochs", str(self.repeats())]

    def probe(self, site):
        with ONCE:
            if not any(attempt[0] == "aws" for attempt in site.outsiders):
                site.outsiders.append(("aws", knock_aws(self.environment)))
        return None


class VaultTask(Task):
    """A Vault token that the workload never sees. Vault itself is asked whether it still knows it."""

    def scope(self):
        return ["--scope", "kb-read"]

    def program(self, site):
        return [EXAMPLES / "read_kb.py", "--mount", "dayfly-demo", "--times", str(self.repeats())]

    def probe(self, site):
        with ONCE:
            if not any(attempt[0] == "vault" for attempt in site.outsiders):
                site.outsiders.append(("vault", knock_vault(self.environment)))
        accessor = site.vault.accessor_of(self.id)
        return lambda: site.vault.knows(accessor)


STARTING = threading.BoundedSemaphore(STARTS)
ONCE = threading.Lock()
PROVIDERS = {"token": TokenTask, "aws": AwsTask, "vault": VaultTask}


def run_tasks(site):
    """All tasks, half of them killed, in an order of chance; at most ten are alive at any moment."""
    providers = ["token", "aws"] + (["vault"] if site.vault else [])
    tasks = [PROVIDERS[name](name, number % 2 == 1) for name in providers for number in range(site.options.tasks)]
    random.shuffle(tasks)
    print(f"\nRunning {site.options.tasks} tasks each of {', '.join(providers)}; every second one is killed by SIGKILL.")
    done = 0
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for _ in concurrent.futures.as_completed([pool.submit(task.run, site) for task in tasks]):
            done += 1
            progress(f"  {done} of {len(tasks)} tasks have ended")
    progress(None)
    return sorted(tasks, key=lambda task: (task.provider, task.used_at or 0))


def first_refusal(probe, end):
    """Milliseconds from the end to the first refusal; None if none comes."""
    while probe():
        if time.monotonic() - end > REFUSED_WITHIN:
            return None
    return (time.monotonic() - end) * 1000


def environment_of(pid):
    """What a thief of the same user reads."""
    pairs = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode(errors="replace").split("=", 1) for pair in pairs if b"=" in pair)


def claims(token):
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def knock_aws(environment):
    """Asks for the task's session with the task's own address and bearer, from outside the task."""
    bearer = environment.get("AWS_CONTAINER_AUTHORIZATION_TOKEN")
    if bearer is None:
        bearer = pathlib.Path(environment["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"]).read_text()
    return status_of(environment["AWS_CONTAINER_CREDENTIALS_FULL_URI"], {"Authorization": bearer.strip()})


def knock_vault(environment):
    """Reads the task's secret at the task's own address with its placeholder, from outside the task."""
    url = f"{environment['VAULT_ADDR']}/v1/dayfly-demo/data/kb/hello"
    return status_of(url, {"X-Vault-Token": environment["VAULT_TOKEN"]})


def status_of(url, headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return f"no answer ({error})"


# ---- Vault ----------------------------------------------------------------------------------------------------------


class Vault:
    """A Vault that was named. Everything made in it carries `dayfly-` names and is removed at the end."""

    KV, LOGIN, ROLE = "dayfly-demo", "dayfly-dev", "dayfly-demo-kb-read"
    BROKER = "spiffe://dev.dayfly/dayfly/broker"

    def __init__(self, options):
        self.address = options.vault.rstrip("/")
        self.token = pathlib.Path(options.vault_token_file).read_text().strip()
        self.ask("GET", "auth/token/lookup-self")

    def ask(self, method, path, body=None, missing_is_fine=False):
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.token, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                text = answer.read()
                return json.loads(text) if text else {}
        except urllib.error.HTTPError as error:
            if missing_is_fine and error.code in (400, 403, 404):
                return None
            raise SystemExit(f"Vault: {method} {path}: {error.code} {error.read().decode()[:300]}") from error

    def set_up(self, bundle):
        """As deploy/vault tells, under names of the demo's own."""
        self.clean()
        self.ask("POST", f"sys/mounts/{self.KV}", {"type": "kv", "options": {"version": "2"}})
        # The mount refuses writes for a moment.
        wait_for(lambda: self.ask("POST", f"{self.KV}/data/kb/hello", {"data": {"answer": "42"}}), 15, "the kv engine")
        policies = {
            "dayfly-dev-mint": f'path "auth/token/create/{self.ROLE}" {{ capabilities = ["update"] }}\n'
            f'path "auth/token/roles/{self.ROLE}" {{ capabilities = ["read"] }}\n'
            'path "auth/token/renew-accessor" { capabilities = ["update"] }',
            "dayfly-dev-revoke": "".join(
                f'path "{path}" {{ capabilities = ["update"] }}\n'
                for path in (
                    "auth/token/revoke-accessor",
                    "auth/token/lookup-accessor",
                    "sys/leases/revoke",
                    "sys/leases/lookup",
                    "auth/token/renew-self",
                )
            ),
            self.ROLE: f'path "{self.KV}/data/kb/*" {{ capabilities = ["read"] }}',
        }
        for name, policy in policies.items():
            self.ask("PUT", f"sys/policies/acl/{name}", {"policy": policy})
        self.ask("POST", f"sys/auth/{self.LOGIN}", {"type": "jwt"})
        keys = [pem(key) for key in bundle["keys"] if key.get("use") == "jwt-svid"]
        config = {"jwt_validation_pubkeys": keys, "jwt_supported_algs": ["ES256"]}
        self.ask("POST", f"auth/{self.LOGIN}/config", config)
        login = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_subject": self.BROKER,
            "bound_audiences": ["vault"],
            "token_no_default_policy": True,
            "token_type": "service",
        }
        mint = {"token_policies": ["dayfly-dev-mint"], "token_ttl": "10m", "token_max_ttl": "10m"}
        self.ask("POST", f"auth/{self.LOGIN}/role/dayfly-mint", login | mint)
        revoke = {"token_policies": ["dayfly-dev-revoke"], "token_period": "24h"}
        self.ask("POST", f"auth/{self.LOGIN}/role/dayfly-revoke", login | revoke)
        role = {
            "allowed_policies": [self.ROLE],
            "token_no_default_policy": True,
            "orphan": True,
            "renewable": True,
            "token_type": "service",
            "token_explicit_max_ttl": "8h",
        }
        self.ask("POST", f"auth/token/roles/{self.ROLE}", role)
        print(f"  set up {self.address} under dayfly- names")

    def clean(self):
        for path in (f"sys/auth/{self.LOGIN}", f"sys/mounts/{self.KV}", f"auth/token/roles/{self.ROLE}"):
            self.ask("DELETE", path, missing_is_fine=True)
        for name in ("dayfly-dev-mint", "dayfly-dev-revoke", self.ROLE):
            self.ask("DELETE", f"sys/policies/acl/{name}", missing_is_fine=True)

    def accessor_of(self, task_id):
        """The accessor of the one token that was made for a task, found by the name that the broker gave it."""
        for accessor in self.ask("GET", "auth/token/accessors?list=true")["data"]["keys"]:
            token = self.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor}, missing_is_fine=True)
            if token and (token["data"].get("meta") or {}).get("task") == task_id:
                return accessor
        raise RuntimeError(f"Vault knows no token of task {task_id}")

    def knows(self, accessor):
        return self.ask("POST", "auth/token/lookup-accessor", {"accessor": accessor}, missing_is_fine=True) is not None


def pem(key):
    """A P-256 public key: the fixed head of its SubjectPublicKeyInfo (RFC 5480) and the point."""
    head = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
    point = b"".join(base64.urlsafe_b64decode(key[axis] + "=") for axis in "xy")
    text = base64.b64encode(head + point).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""])


# ---- what is told ---------------------------------------------------------------------------------------------------


def timeline(site, tasks, attempts, chain):
    print()
    rows = [("TASK", "PROVIDER", "ISSUED", "USED", "ENDED", "TAKEN BACK", "REFUSED")]
    rows += [row(site, task) for task in tasks]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    print()
    for provider, status in attempts:
        print(f"An outsider of the same user, with a task's own {provider} address and token: {status}")
    print(f"Audit: {chain.strip().splitlines()[-1]}")


def row(site, task):
    lease = task.leases[0] if task.leases else None
    since = lambda at: f"+{at - site.began:.2f} s" if at else "-"  # noqa: E731
    ended = since(task.ended_at) + (" SIGKILL" if task.killed else " exit")
    issued = since(seconds(lease["opened_at"])) if lease else "-"
    if task.failure:
        return (task.id, task.provider, issued, since(task.used_at), ended, f"FAILED: {task.failure}", "")
    refused = f"after {task.refused_ms:.0f} ms" if task.refused_ms is not None else ("OUTLIVED" if task.outlived else "-")
    return (task.id, task.provider, issued, since(task.used_at), ended, taken_back(task, lease), refused)


def taken_back(task, lease):
    match standing(lease) if lease else None:
        case "verified":
            # The broker's clock has milliseconds.
            after = max(0.0, seconds(lease["ended_at"]) - task.ended_at) * 1000
            return f"verified after {after:.0f} ms"
        case "runs_out":
            at = lease["runs_out_at"] or lease["expires_at"]
            return f"runs out at {at[11:19]}"
        case other:
            return other or (lease["state"] if lease else "no lease")


def seconds(text):
    return datetime.datetime.fromisoformat(text).timestamp() if text else None


def count(tasks, site):
    """`issued` is counted from the broker's leases; each is in exactly one of the three others, or the demo fails."""
    leases = [(lease, task) for task in tasks for lease in task.leases] + [(lease, None) for lease in site.strays]
    leases = [(lease, task) for lease, task in leases if standing(lease) != "never_issued"]
    outlived = sum(1 for lease, task in leases if is_outlived(lease, task))
    kinds = [standing(lease) for lease, task in leases if not is_outlived(lease, task)]
    refused = sorted(task.refused_ms for task in tasks if task.refused_ms is not None)
    return {
        "issued": len(leases),
        "verified": kinds.count("verified"),
        "runs_out": kinds.count("runs_out"),
        "outlived": outlived,
        "end_to_refused_ms": {"p50": percentile(refused, 50), "p99": percentile(refused, 99)},
    }


def is_outlived(lease, task):
    """It still works in the probe, and nobody said that it would."""
    return task is not None and task.outlived and standing(lease) != "runs_out"


def percentile(values, percent):
    """The nearest rank; None of nothing."""
    if not values:
        return None
    rank = max(1, -(-len(values) * percent // 100))
    return round(values[rank - 1], 1)


def tell(totals, tasks):
    p50, p99 = totals["end_to_refused_ms"].values()
    print(
        f"{totals['issued']} issued: {totals['verified']} taken back and verified by their target, {totals['runs_out']} "
        f"run out by themselves (their target cannot take them back), {totals['outlived']} outlived their task."
    )
    if p50 is not None:
        probed = sum(1 for task in tasks if task.refused_ms is not None)
        print(f"From the end of a task to the first refusal, {probed} probed: p50 {p50} ms, p99 {p99} ms.")


def verdict(totals, tasks, attempts):
    faults = [f"{task.provider} task {task.id}: {task.failure}" for task in tasks if task.failure]
    if totals["outlived"]:
        faults.append(f"{totals['outlived']} credentials outlived their task")
    if totals["issued"] != totals["verified"] + totals["runs_out"] + totals["outlived"]:
        faults.append("some leases are neither verified nor declared to run out")
    if totals["issued"] == 0:
        faults.append("nothing was issued")
    faults += [f"an outsider was served at the {provider} address: {status}" for provider, status in attempts if status == 200]
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    return 1 if faults else 0


# ---- small things ---------------------------------------------------------------------------------------------------


def progress(text):
    """On a terminal one line that changes; elsewhere nothing."""
    if not sys.stdout.isatty():
        return
    print(f"\r{text}" if text else "", end="" if text else "\n", flush=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_for(ask, within, what):
    deadline = time.monotonic() + within
    while True:
        try:
            return ask()
        except (OSError, SystemExit) as error:
            if time.monotonic() > deadline:
                sys.exit(f"{what} is not there within {within} s: {error}")
            time.sleep(0.1)


def end(process):
    """Tells a process to end and waits for it."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
