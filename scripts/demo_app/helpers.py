"""Small things."""

import pathlib
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
EXAMPLES = ROOT / "examples" / "python"


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
