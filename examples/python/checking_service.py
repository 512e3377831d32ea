"""A service that takes Dayfly's access tokens, and asks the broker about each (RFC 7662).

Whoever calls it shows two things: an X.509-SVID on the connection, and a token that was issued to that very identity for
this service. A token in other hands, of an ended task, or for somebody else is refused.

    SPIFFE_ENDPOINT_SOCKET=$DAYFLY_DEV_SERVICE_API python checking_service.py --port 8443
"""

import argparse
import http.client
import json
import os
import ssl
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from svid import Svid, peer

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--introspection", default=os.environ.get("DAYFLY_DEV_INTROSPECTION"), required=False)
parser.add_argument("--broker-id", default=os.environ.get("DAYFLY_BROKER_ID"))
options = parser.parse_args()

me = Svid()
desk = urllib.parse.urlsplit(options.introspection)
kept = threading.local()


def introspect(token):
    """What the broker says of a token. Nothing of it is kept: the next answer may be another one."""
    body = urllib.parse.urlencode({"token": token})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for attempt in ("kept connection", "new connection"):
        try:
            connection = connect()
            connection.request("POST", desk.path, body, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            if answer.status != 200:
                raise RuntimeError(f"introspection answers {answer.status}: {said}")
            return said
        except (OSError, http.client.HTTPException):
            kept.connection = None
            if attempt == "new connection":
                raise


def connect():
    connection = getattr(kept, "connection", None)
    if connection is None:
        connection = http.client.HTTPSConnection(desk.hostname, desk.port, timeout=5, context=me.client())
        connection.connect()
        # Somebody else could answer "active" to everything.
        if peer(connection.sock) != options.broker_id:
            raise ssl.SSLError(f"{desk.netloc} is {peer(connection.sock)}, not the broker")
        kept.connection = connection
    return connection


class Notes(BaseHTTPRequestHandler):
    """Gives notes to those whose token is good for it."""

    protocol_version = "HTTP/1.1"
    # Head and body leave together, and at once.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return self.answer(401, {"error": "show a token"})
        try:
            told = introspect(token)
        except (OSError, ValueError, RuntimeError, http.client.HTTPException) as error:
            # No answer is no permission.
            return self.answer(503, {"error": f"the broker cannot be asked: {error}"})
        if not told.get("active"):
            return self.answer(401, {"error": "the token is not active"})
        if told["aud"] != me.spiffe_id:
            return self.answer(401, {"error": "the token is for somebody else"})
        # RFC 7800: the token is good only in the hands of the identity it names.
        caller = peer(self.connection)
        if told["cnf"]["spiffe_id"] != caller:
            return self.answer(401, {"error": f"the token was not issued to {caller}"})
        if "notes.read" not in told.get("scope", "").split():
            return self.answer(403, {"error": "the token does not say notes.read"})
        return self.answer(200, {"notes": ["buy milk"], "for": told["sub"], "task": told["task"]})

    def answer(self, status, what):
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", 'Bearer error="invalid_token"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Service(ThreadingHTTPServer):
    """One thread for each connection; its handshake too, so that a slow client stops nobody."""

    daemon_threads = True
    context = me.server()

    def finish_request(self, request, client_address):
        with self.context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)

    def handle_error(self, request, client_address):
        pass


service = Service(("127.0.0.1", options.port), Notes)
print(f"{me.spiffe_id} at https://127.0.0.1:{service.server_port}/notes", flush=True)
service.serve_forever()
