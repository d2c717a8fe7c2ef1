"""Two uvicorns with nginx before them: ``serve.py {split,mirror,return}``; ends all when it ends.

split: ``split_clients`` sends half of the requests to each; mirror: everything to the first and a copy to the
second; return: nginx alone answers 200 itself, the limit for any HTTP server here.  With ``SHADOW`` in the
environment a mirror's second is one that is sick in that way (``sick.py``), ``dead`` (nobody listens) or
``none`` (no mirror at all).
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMON = """
daemon off;
master_process on;
worker_processes {workers};
error_log stderr error;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    {body}
}}
"""
BACKENDS = """
    upstream first {{ server 127.0.0.1:{first}; keepalive 256; keepalive_requests 1000000000; }}
    upstream second {{ server 127.0.0.1:{second}; keepalive 256; keepalive_requests 1000000000; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
"""
SPLIT = """
    split_clients $request_id $variant {{ 50% first; * second; }}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://$variant; }} }}
"""
MIRROR = """
    server {{
        listen 127.0.0.1:{port};
        location / {{ mirror /shadow; proxy_pass http://first; }}
        location = /shadow {{ internal; proxy_pass http://second$request_uri; }}
    }}
"""
PLAIN = """
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://first; }} }}
"""
RETURN = """
    server {{ listen 127.0.0.1:{port}; location / {{ default_type text/csv; return 200 "0.5"; }} }}
"""


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def backends(first, second, shadow):
    """Return the commands of what stands behind nginx."""
    rest = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "error"]
    uvicorn = [sys.executable, "-m", "uvicorn", "backend:app", *rest, "--lifespan", "off", "--port"]
    if shadow in ("none", "dead"):
        return [[*uvicorn, str(first)]]
    if shadow:
        sick = [sys.executable, str(Path(__file__).with_name("sick.py")), shadow, str(second)]
        return [[*uvicorn, str(first)], sick]
    return [[*uvicorn, str(first)], [*uvicorn, str(second)]]


def main(kind):
    """Start all, wait for SIGTERM or the first that ends, end all."""
    port, shadow = int(os.environ["PORT"]), os.environ.get("SHADOW", "")
    first, second = free_port(), free_port()
    if shadow == "none":
        kind = "plain"
    server = {"split": SPLIT, "mirror": MIRROR, "plain": PLAIN, "return": RETURN}[kind]
    body = (server if kind == "return" else BACKENDS + server).format(port=port, first=first, second=second)
    children = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="bench-nginx-") as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(COMMON.format(folder=folder, body=body, workers=1))
        try:
            if kind != "return":
                children += [subprocess.Popen(command) for command in backends(first, second, shadow)]
            children.append(subprocess.Popen(["nginx", "-p", folder, "-c", str(configuration)]))
            while all(child.poll() is None for child in children):
                time.sleep(0.2)
            raise SystemExit("one of nginx and its backends ended")
        finally:
            for child in children:
                child.terminate()
            for child in children:
                child.wait()


if __name__ == "__main__":
    main(sys.argv[1])
