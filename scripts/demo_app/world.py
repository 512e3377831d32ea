"""What runs: Dayfly, a local AWS endpoint, a service that checks tokens, and perhaps a Vault."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

from helpers import EXAMPLES, ROOT, end, free_port, wait_for
from report import standing
from vault import Vault

# A lease that is neither verified nor declared to run out by then is told as it stands.
SETTLE_WITHIN = 20.0


class World:
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
