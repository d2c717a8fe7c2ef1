"""Several containers: in series, or each by its name."""

from __future__ import annotations

import json
import sys

import pytest

from understudy.worker import wire

DOUBLE = """
import json
def model_fn(model_dir): return 2
def input_fn(body, content_type): return [float(x) for x in body.split(",")]
def predict_fn(rows, model):
    if rows[0] < 0: raise ValueError("negative")
    return [row * model for row in rows]
def output_fn(prediction, accept): return ",".join(map(str, prediction)), "text/doubled"
"""
SHOW = """
import json, os
def model_fn(model_dir): return 2
def transform_fn(model, body, content_type, accept):
    if body == "die" or "-0.0" in body: os._exit(5)
    if body == "6.0": return (piece for piece in ["a", "b"]), "text/pieces"
    return json.dumps([body, content_type, accept, os.environ.get("NAME")]), "application/json"
"""


@pytest.fixture
def start_pipeline(start_worker, make_container, tmp_path):
    """Start double > show."""

    def start(wait=True, second=SHOW, **changes):
        containers = []
        for name, code in (("double", DOUBLE), ("show", second)):
            directory = tmp_path / name / "code"
            directory.mkdir(parents=True)
            (directory / "inference.py").write_text(code)
            containers.append(
                make_container(
                    tmp_path / name, hostname=name, code_dir=str(directory), environment={"NAME": name}
                )
            )
        return start_worker(*containers, python=sys.executable, wait=wait, **changes)

    return start


def test_each_answer_is_the_next_ones_request(start_pipeline):
    worker = start_pipeline()
    client = worker.client()
    answer = client.ask(b"1,2", accept="application/json")
    assert answer.status == 200
    assert json.loads(answer.body) == ["2.0,4.0", "text/doubled", "application/json", "show"]
    assert worker.status()["model"] == {"kind": "pipeline", "loader": "pipeline", "note": "double > show"}
    head = wire.RequestHead("text/csv")
    many = client.collect(client.send(*[(head, b"%d" % (number + 10)) for number in range(200)]))
    assert [json.loads(one.body)[0] for one in many] == [f"{2.0 * (number + 10)}" for number in range(200)]


def test_a_failing_step_is_named(start_pipeline):
    client = start_pipeline().client()
    answer = client.ask(b"-1")
    assert (answer.status, answer.body) == (500, b"ValueError: negative")
    assert wire.decode_response_head(answer.head).container == "double"


def test_the_last_steps_stream_is_relayed(start_pipeline):
    client = start_pipeline().client()
    chunks = client.stream(b"3")
    assert b"".join(one.data for one in chunks) == b"ab" and chunks[-1].flags & wire.CHUNK_LAST
    assert wire.decode_response_head(chunks[0].head).container == "show"
    assert client.ask(b"3").body == b"ab"


def test_a_paused_stream_of_the_last_step_waits_in_its_own_process(start_pipeline, tmp_path):
    made = tmp_path / "made"
    endless = f"""
def model_fn(model_dir): return 1
def transform_fn(model, body, content_type, accept):
    def forever():
        number = 0
        while True:
            with open({str(made)!r}, "w") as file: file.write(str(number))
            number += 1
            yield b"x" * 100_000
    return forever(), "text/plain"
"""
    client = start_pipeline(second=endless).client()
    (request_id,) = client.send((wire.RequestHead("text/csv", flags="s"), b"1"))
    assert client.frame()[0] == wire.CHUNK
    client.waits_when_paused(request_id)
    # What two processes hold between them is bounded: the generator comes to a stand.
    before, now = "", made.read_text()
    while not now or before != now:
        client.waits_when_paused(request_id)
        before, now = now, made.read_text()
    client.sock.sendall(wire.encode_resume(request_id))
    for _ in range(200):
        assert client.frame()[0] == wire.CHUNK
    client.sock.sendall(wire.encode_cancel(request_id))
    while not wire.decode_chunk(client.frame()[1]).flags & wire.CHUNK_LAST:
        pass


def test_direct_invocation_goes_to_the_one_named(start_pipeline):
    client = start_pipeline(direct=True).client()
    assert client.ask(b"4", target_container_hostname="double").body == b"8.0"
    assert json.loads(client.ask(b"4", target_container_hostname="show").body)[0] == "4"
    for target in ("", "other"):
        answer = client.ask(b"4", target_container_hostname=target)
        assert answer.status == 400 and b"double, show" in answer.body


def test_a_childs_death_is_told_and_ends_the_pipeline(start_pipeline):
    worker = start_pipeline()
    answer = worker.client().ask(b"-0.0")
    assert answer.status == 0 and wire.decode_response_head(answer.head).container == "show"
    assert worker.process.wait(60) == 1
    assert worker.status()["state"] == "failed" and "show: exit code 5" in worker.status()["detail"]


def test_a_child_that_can_not_load_fails_the_whole(start_pipeline):
    worker = start_pipeline(wait=False, second="def model_fn(d): raise OSError('no disk')")
    status = worker.wait_for("failed", "ready")
    assert status["reason"] == "show: the model can't be loaded: OSError: no disk"
    assert "inference.py:1 in model_fn" in status["detail"]
    assert worker.process.wait(60) == 1


def test_sigterm_ends_all(start_pipeline):
    worker = start_pipeline()
    assert worker.client().ask(b"1").status == 200
    assert worker.terminate() == 0
