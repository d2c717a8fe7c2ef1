"""Models with an HTTP server of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import pytest

from understudy.worker import wire

SERVER = """
import http.server, json, os, sys, threading
barrier = threading.Barrier(2, timeout=60)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pings = 0
    def log_message(self, *arguments): pass
    def send(self, status, body, **headers):
        self.send_response(status)
        headers = {"Content-Type": "text/plain", "Content-Length": str(len(body)), **headers}
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        Handler.pings += 1
        self.send(200 if Handler.pings > 2 else 503, b"")
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"headers":
            seen = json.dumps(dict(self.headers)).encode()
            return self.send(200, seen, X_Amzn_SageMaker_Custom_Attributes="a=1")
        if body == b"refuse": return self.send(422, b"not so")
        if body == b"redirect": return self.send(302, b"")
        if body == b"meet":
            barrier.wait()
            return self.send(200, b"met")
        if body == b"drop":
            self.close_connection = True
            return self.send(200, b"bye")
        if body == b"twice":
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nContent-Length: 3\\r\\n\\r\\nabc")
            self.close_connection = True
            return
        if body == b"both":
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 3\\r\\n")
            self.wfile.write(b"Transfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n")
            self.close_connection = True
            return
        if body == b"short":
            self.wfile.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 30\\r\\n\\r\\nabc")
            self.close_connection = True
            return
        if body == b"chunks":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (b"one", b"two", b""):
                self.wfile.write(b"%x\\r\\n%s\\r\\n" % (len(piece), piece))
                self.wfile.flush()
            return
        if body == b"die":
            sys.stderr.write("fatal: out of cheese\\n")
            os._exit(9)
        self.send(200, body)
address = ("127.0.0.1", int(os.environ["SAGEMAKER_BIND_TO_PORT"]))
http.server.ThreadingHTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def start_command(start_worker, make_container, tmp_path):
    """Start a worker around a command."""

    def start(code: str = SERVER, **changes):
        (tmp_path / "serve.py").write_text(code)
        changes = {"command": [sys.executable, "serve.py"]} | changes
        return start_worker(make_container(tmp_path, **changes), wait=False)

    return start


def test_requests_and_answers_pass_with_their_headers(start_command):
    worker = start_command()
    assert worker.wait_for("ready")["model"]["kind"] == "command"
    client = worker.client()
    answer = client.ask(
        b"headers", "text/csv", accept="x/y", custom_attributes="t=1", inference_id="i", target_model="m"
    )
    headers = {name.lower(): value for name, value in json.loads(answer.body).items()}
    assert {name: value for name, value in headers.items() if name not in ("host", "content-length")} == {
        "content-type": "text/csv", "accept": "x/y", "x-amzn-sagemaker-custom-attributes": "t=1",
        "x-amzn-sagemaker-inference-id": "i", "x-amzn-sagemaker-target-model": "m",
    }  # fmt: skip
    assert wire.decode_response_head(answer.head)[:2] == ("text/plain", "a=1")
    assert "X-Understudy-Mirrored" not in json.loads(answer.body)
    copied = client.ask(b"headers", flags="m")
    assert json.loads(copied.body)["X-Understudy-Mirrored"] == "true"
    refused = client.ask(b"refuse")
    assert (refused.status, refused.body) == (422, b"not so")
    assert client.ask(b"").body == b""
    assert client.ask(b"drop").body == b"bye" and client.ask(b"after").body == b"after"


def test_several_requests_are_under_way_at_once(start_command):
    worker = start_command()
    worker.wait_for("ready")
    client = worker.client()
    head = wire.RequestHead("text/plain")
    assert [one.body for one in client.collect(client.send((head, b"meet"), (head, b"meet")))] == [
        b"met",
        b"met",
    ]


def test_answers_that_can_be_read_in_two_ways_are_refused(start_command):
    worker = start_command()
    worker.wait_for("ready")
    client = worker.client()
    for body, status, text in [
        (b"twice", 500, b"ambiguous framing"), (b"both", 500, b"ambiguous framing"),
        (b"redirect", 500, b"status 302"), (b"short", 0, b"broke off"),
    ]:  # fmt: skip
        answer = client.ask(body)
        assert answer.status == status and text in answer.body, answer
        assert client.ask(b"fine").body == b"fine"


def test_streams_are_relayed(start_command):
    worker = start_command()
    worker.wait_for("ready")
    client = worker.client()
    chunks = client.stream(b"chunks")
    assert b"".join(one.data for one in chunks) == b"onetwo"
    assert chunks[-1].flags & wire.CHUNK_LAST and not chunks[-1].flags & wire.CHUNK_FAILED
    assert wire.decode_response_head(chunks[0].head).content_type == "text/event-stream"
    assert client.ask(b"chunks").body == b"onetwo"


def test_the_servers_death_is_the_workers(start_command):
    worker = start_command()
    worker.wait_for("ready")
    answer = worker.client().ask(b"die")
    assert answer.status == 0
    assert worker.process.wait(60) == 1
    status = worker.status()
    assert status["state"] == "failed" and status["detail"] == "exit code 9: fatal: out of cheese"
    assert "fatal: out of cheese" in worker.log()


def test_a_command_that_ends_before_its_first_ping_fails_the_load(start_command):
    worker = start_command("import sys; sys.exit('no licence')")
    status = worker.wait_for("failed", "ready")
    assert status["detail"] == "exit code 1: no licence"
    worker = start_command(command=["/no/such/program"])
    assert "can't be started" in worker.wait_for("failed", "ready")["reason"]


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("way", ["term", "kill", "lifeline"])
def test_no_server_outlives_its_worker(way, start_command, tmp_path):
    worker = start_command(
        f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n" + SERVER
    )
    worker.wait_for("ready")
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    if way == "lifeline":
        os.close(worker.lifeline_write)
        worker.lifeline_write = os.open(os.devnull, os.O_RDONLY)
    else:
        worker.process.send_signal(signal.SIGTERM if way == "term" else signal.SIGKILL)
    worker.process.wait(60)
    until = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(pid)
