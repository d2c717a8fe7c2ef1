"""The worker as a process: several routers, stopping, lifeline, title, rubbish on the wire, big bodies."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import joblib
import pytest
from sklearn.dummy import DummyClassifier

from understudy.worker import wire

HEAD = wire.RequestHead(content_type="text/plain")
GATED = """
import os, time
def model_fn(model_dir): return 1
def transform_fn(model, body, content_type, accept):
    while body == "wait" and not os.path.exists({gate!r}): time.sleep(0.005)
    return body, "text/plain"
"""


@pytest.fixture
def start_gated(start_worker, make_container, tmp_path):
    """A worker that keeps ``wait`` until the gate file is there."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "inference.py").write_text(GATED.format(gate=str(tmp_path / "gate")))
    return lambda: start_worker(make_container(tmp_path))


def test_several_routers_are_served_and_may_connect_before_it_is_ready(
    start_worker, make_container, tmp_path
):
    joblib.dump(DummyClassifier(strategy="constant", constant=4).fit([[0]], [4]), tmp_path / "model.joblib")
    worker = start_worker(make_container(tmp_path), wait=False)
    clients = [worker.client() for _ in range(5)]
    ids = [client.send((wire.RequestHead("text/csv"), b"1")) for client in clients]
    assert {client.collect(one)[0].body for client, one in zip(clients, ids, strict=True)} == {b"[4]"}
    clients[0].close()
    clients[1].sock.sendall(wire.encode_requests([(1, b"", b"x" * 100)])[:50])
    clients[1].close()
    clients[2].sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ConnectionError):
        clients[2].frame()
    clients[3].ping()
    assert worker.client().ask(b"1").body == b"[4]"


def test_sigterm_answers_what_is_in_hand_and_exits_0(start_gated, tmp_path):
    worker = start_gated()
    client = worker.client()
    ids = client.send((HEAD, b"wait"), (HEAD, b"b"))
    client.ping()
    worker.process.terminate()
    until = time.monotonic() + 60
    while time.monotonic() < until:  # the listener is closed once the stop has begun
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(worker.address)
            except ConnectionRefusedError:
                break
        time.sleep(0.01)
    else:
        pytest.fail("still accepting after SIGTERM")
    assert worker.process.poll() is None
    (tmp_path / "gate").touch()
    assert [one.body for one in client.collect(ids)] == [b"wait", b"b"]
    assert worker.process.wait(60) == 0


def test_the_lifelines_end_is_the_workers_end_even_in_a_call(start_gated):
    worker = start_gated()
    client = worker.client()
    client.send((HEAD, b"wait"))
    client.ping()
    spare = os.dup(worker.lifeline_write)
    os.close(worker.lifeline_write)
    worker.lifeline_write = os.open(os.devnull, os.O_RDONLY)
    client.ping()  # another holder of the write end is left: nothing happens
    os.close(spare)
    assert worker.process.wait(60) == 0


def test_its_command_line_shows_the_title(start_gated):
    worker = start_gated()
    shown = Path(f"/proc/{worker.process.pid}/cmdline").read_bytes().rstrip(b"\0")
    assert shown == b"understudy worker E/V/0"


def test_big_bodies_and_many_requests_pass_whole(start_gated):
    client = start_gated().client()
    body = os.urandom(3 << 20).hex().encode()
    requests = [(HEAD, body)] * 4 + [(HEAD, b"%d" % number) for number in range(3000)]
    answers = client.collect(client.send(*requests))
    assert [one.body for one in answers] == [body for _, body in requests]


def test_a_router_that_does_not_read_holds_up_nobody(start_gated):
    worker = start_gated()
    silent, other = worker.client(), worker.client()
    body = b"x" * (6 << 20)
    ids = silent.send(*[(HEAD, body)] * 6)
    other.ping()
    assert other.ask(b"y", "text/plain").body == b"y"
    assert all(one.body == body for one in silent.collect(ids))


def test_a_spec_that_is_none_exits_2(tmp_path):
    import subprocess
    import sys

    from understudy import worker

    (tmp_path / "spec.json").write_text('{"containers": []}')
    program = Path(worker.__file__).parent / "__main__.py"
    done = subprocess.run(
        [sys.executable, str(program), "--spec", str(tmp_path / "spec.json")], capture_output=True, text=True
    )
    assert done.returncode == 2 and "not a worker's spec" in done.stderr


def test_an_artifact_with_nothing_says_what_was_expected(start_worker, make_container, tmp_path):
    (tmp_path / "readme.txt").write_text("x")
    status = start_worker(make_container(tmp_path), wait=False).wait_for("failed", "ready")
    assert status["reason"] == "no model found in the artifact" and "readme.txt" in status["detail"]
