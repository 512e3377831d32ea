"""Programs in tasks: each is started, used, ended, and what it was given is tried again."""

import base64
import concurrent.futures
import http.client
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from helpers import EXAMPLES, progress

# Programs that start at once; each takes a core for some hundred milliseconds, and what is measured needs one too.
STARTS = min(4, os.cpu_count() or 2)
# A credential that still works so long after the end of its task has outlived it.
REFUSED_WITHIN = 20.0


class Task:
    """One program in one task, from its start to the refusal of what it was given."""

    def __init__(self, provider, killed):
        self.provider = provider
        self.killed = killed
        self.id = "?"
        self.leases = []
        self.used_at = self.ended_at = self.refused_ms = None
        # Which of its leases the probe tries, where the credential tells.
        self.lease_id = None
        self.outlived = False
        self.failure = None

    def run(self, world):
        try:
            self._run(world)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and fails the demo
            self.failure = self.failure or f"{type(error).__name__}: {error}"
        return self

    def _run(self, world):
        with STARTING:
            self.process = subprocess.Popen(
                [world.options.bin / "dayfly", "run", *self.scope(), "--", sys.executable, *self.program(world)],
                env=world.env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            first = self.process.stdout.readline()
        if not first:
            self.process.wait()
            self.failure = f"the program ended with {self.process.returncode}: {self.process.stderr.read().strip()[-400:]}"
            return
        self.used_at = time.time()
        self.environment = environment_of(self.process.pid)
        self.id = self.environment.get("DAYFLY_TASK_ID", "?")
        probe = self.probe(world)
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

    def program(self, world):
        return [EXAMPLES / "call_service.py", world.service.geturl(), "--times", str(self.repeats())]

    def probe(self, world):
        token = pathlib.Path(self.environment["DAYFLY_TOKEN_FILE"]).read_text().strip()
        self.lease_id = claims(token)["jti"]
        connection = http.client.HTTPSConnection(world.service.hostname, world.service.port, context=world.me.client())

        def works():
            connection.request("GET", world.service.path, headers={"Authorization": f"Bearer {token}"})
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

    def program(self, world):
        return [EXAMPLES / "train.py", "--epochs", str(self.repeats())]

    def probe(self, world):
        with ONCE:
            if not any(attempt[0] == "aws" for attempt in world.outsiders):
                world.outsiders.append(("aws", knock_aws(self.environment)))
        return None


class VaultTask(Task):
    """A Vault token that the workload never sees. Vault itself is asked whether it still knows it."""

    def scope(self):
        return ["--scope", "kb-read"]

    def program(self, world):
        return [EXAMPLES / "read_kb.py", "--mount", "dayfly-demo", "--times", str(self.repeats())]

    def probe(self, world):
        with ONCE:
            if not any(attempt[0] == "vault" for attempt in world.outsiders):
                world.outsiders.append(("vault", knock_vault(self.environment)))
        accessor = world.vault.accessor_of(self.id)
        return lambda: world.vault.knows(accessor)


STARTING = threading.BoundedSemaphore(STARTS)
ONCE = threading.Lock()
PROVIDERS = {"token": TokenTask, "aws": AwsTask, "vault": VaultTask}


def run_tasks(world):
    """All tasks, half of them killed, in an order of chance; at most ten are alive at any moment."""
    providers = ["token", "aws"] + (["vault"] if world.vault else [])
    tasks = [PROVIDERS[name](name, number % 2 == 1) for name in providers for number in range(world.options.tasks)]
    random.shuffle(tasks)
    print(f"\nRunning {world.options.tasks} tasks each of {', '.join(providers)}; every second one is killed by SIGKILL.")
    done = 0
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for _ in concurrent.futures.as_completed([pool.submit(task.run, world) for task in tasks]):
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
