"""The Vault that was named: what the demo needs in it, and what it still knows of a token."""

import base64
import json
import pathlib
import urllib.error
import urllib.request

from helpers import wait_for


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
            f'path "sys/policies/acl/{self.ROLE}" {{ capabilities = ["read"] }}\n'
            'path "sys/mounts" { capabilities = ["read"] }\n'
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
