"""A stand-in for the worker program: obeys spec.json, the status file, SIGTERM and the lifeline; no model.

The container's Environment says how it behaves: STANDIN = ready (default), fail, exit, segfault, hang, deaf
(ignores SIGTERM), slow (ready when the file STANDIN_GATE appears), crash_later (when it appears).
STANDIN_CHILD=1 starts a child in a session of its own, STANDIN_BURN=1 one that burns a processor.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

spec = json.loads(Path(sys.argv[sys.argv.index("--spec") + 1]).read_text())
behaviour = spec["containers"][0]["environment"].get("STANDIN", "ready")
gate = spec["containers"][0]["environment"].get("STANDIN_GATE", "")


def tell(state: str, reason: str = "", detail: str = "") -> None:
    path = Path(spec["status_path"])
    temporary = path.with_name("." + path.name)
    told = {
        "state": state,
        "reason": reason,
        "detail": detail,
        "batch": False,
        "pid": os.getpid(),
        "at_s": 0.0,
    }
    temporary.write_text(json.dumps(told | {"model": {"kind": "", "loader": "", "note": ""}}))
    temporary.replace(path)


def wait_for_gate() -> None:
    while not Path(gate).exists():
        time.sleep(0.01)


def watch_lifeline() -> None:
    os.read(spec["lifeline_fd"], 1)
    os._exit(0)


threading.Thread(target=watch_lifeline, daemon=True).start()
print("stand-in says hello", flush=True)
tell("loading", detail="reading the stand-in model")
signal.signal(signal.SIGTERM, signal.SIG_IGN if behaviour == "deaf" else lambda *_: os._exit(0))
if spec["containers"][0]["environment"].get("STANDIN_CHILD"):
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
if spec["containers"][0]["environment"].get("STANDIN_BURN"):
    subprocess.Popen([sys.executable, "-c", "while True: pass"])
if behaviour == "fail":
    tell("failed", reason="code/inference.py line 7: NameError: name 'xg' is not defined")
    time.sleep(1000)
if behaviour == "exit":
    print("Traceback: the model is broken", file=sys.stderr, flush=True)
    os._exit(3)
if behaviour == "segfault":
    os.kill(os.getpid(), signal.SIGSEGV)
if behaviour == "memory":
    block = bytearray(3 * 1024**3)
if behaviour == "hang":
    time.sleep(1000)
if behaviour == "slow":
    wait_for_gate()
tell("ready")
listener = socket.socket(fileno=spec["listen_fd"])
if behaviour == "crash_later":
    wait_for_gate()
    print("out of luck", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    connection, _ = listener.accept()
    readable, _, _ = select.select([connection], [], [], 5)
    if readable and connection.recv(4) == b"spec":
        told = {"spec": spec, "environ": dict(os.environ), "cwd": str(Path.cwd()), "argv": sys.argv}
        connection.sendall(json.dumps(told).encode())
    connection.close()
