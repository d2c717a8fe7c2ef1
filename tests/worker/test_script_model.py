"""User code in real workers: every function, its errors, its streams."""

from __future__ import annotations

import json
import re
import sys
import textwrap

import joblib
import pytest
from sklearn.dummy import DummyClassifier

from understudy.worker import wire
from understudy.worker.calls import Refusal
from understudy.worker.script_defaults import default_input, default_output


@pytest.fixture
def start_script(start_worker, make_container, tmp_path):
    """Start a worker whose artifact has this inference.py."""

    def start(code: str, *, wait: bool = True, environment=None, name: str = "inference.py", files=None):
        model_dir = tmp_path / "model"
        code_dir = model_dir / "code"
        code_dir.mkdir(parents=True, exist_ok=True)
        (code_dir / name).write_text(textwrap.dedent(code))
        for path, text in (files or {}).items():
            (model_dir / path).write_text(text)
        return start_worker(
            make_container(model_dir, code_dir=str(code_dir), environment=environment or {}), wait=wait
        )

    return start


def test_the_four_functions_get_what_the_toolkits_give(start_script):
    worker = start_script(
        """
        import json, os
        import helper
        def model_fn(model_dir):
            with open(os.path.join(model_dir, "w")) as file:
                return {"dir": os.path.basename(model_dir), "weight": file.read()}
        def input_fn(body, content_type): return [type(body).__name__, content_type, len(body)]
        def predict_fn(data, model):
            return {"data": data, "model": model, "cwd": os.path.basename(os.getcwd()), "helped": helper.X}
        def output_fn(prediction, accept):
            return json.dumps({**prediction, "accept": accept}), "application/vnd.mine"
        """,
        files={"w": "3", "code/helper.py": "X = 5"},
    )
    client = worker.client()
    answer = client.ask("é".encode(), "text/plain", accept="application/mine")
    assert wire.decode_response_head(answer.head).content_type == "application/vnd.mine"
    assert json.loads(answer.body) == {
        "data": ["str", "text/plain", 1], "model": {"dir": "model", "weight": "3"}, "cwd": "code",
        "helped": 5, "accept": "application/mine",
    }  # fmt: skip
    assert json.loads(client.ask(b"{}", "application/json").body)["data"][0] == "str"
    assert json.loads(client.ask(b"\xff", "image/png", accept="*/*").body)["data"][0] == "bytes"
    assert json.loads(client.ask(b"", "image/png", accept="*/*").body)["accept"] == "application/json"


def test_context_is_given_to_those_who_take_it(start_script):
    worker = start_script(
        """
        import json
        def model_fn(model_dir, context): return context.system_properties["model_dir"]
        def transform_fn(model, body, content_type, accept, context):
            context.set_response_content_type(0, "text/x-special")
            header = context.get_request_header(0, "x-amzn-sagemaker-custom-attributes")
            return json.dumps([model[-5:], header,
                               context.custom_attributes, context.inference_id]), accept
        """
    )
    answer = worker.client().ask(b"x", custom_attributes="tenant=7", inference_id="abc")
    assert wire.decode_response_head(answer.head).content_type == "text/x-special"
    assert json.loads(answer.body) == ["model", "tenant=7", "tenant=7", "abc"]


def test_a_shadows_copy_is_marked_for_user_code(start_script):
    worker = start_script(
        """
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept, context):
            return f"{context.mirrored} {context.get_request_header(0, 'X-Understudy-Mirrored')}", accept
        """
    )
    client = worker.client()
    assert client.ask(b"x").body == b"False None"
    assert client.ask(b"x", flags="m").body == b"True true"


def test_tensorflow_style_handler(start_script):
    client = start_script(
        """
        def handler(data, context):
            return data.read()[::-1], context.accept_header
        """
    ).client()
    answer = client.ask(b"abc", accept="text/plain")
    assert answer.body == b"cba" and wire.decode_response_head(answer.head).content_type == "text/plain"


def test_defaults_fill_in_for_a_script_with_only_model_fn(start_script):
    client = start_script(
        """
        class Model:
            def predict(self, rows): return rows.sum(axis=1)
        def model_fn(model_dir): return Model()
        """
    ).client()
    assert json.loads(client.ask(b"1,2\n3,4").body) == [3.0, 7.0]
    assert client.ask(b"1,2\n3,4", accept="text/csv").body == b"3.0\n7.0\n"
    assert client.ask(b"[[1, 2], [3, 4]]", "application/json").body == b"[3, 7]"
    assert client.ask(b"abc", "image/png").status == 415
    assert client.ask(b"1,x").status == 400


def test_default_model_fn_loads_what_it_can(start_worker, make_container, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("def output_fn(p, accept): return f'got {p[0]}', 'text/plain'")
    joblib.dump(DummyClassifier(strategy="constant", constant=4).fit([[0]], [4]), tmp_path / "model.joblib")
    worker = start_worker(
        make_container(
            tmp_path, code_dir=str(tmp_path / "code"), environment={"SAGEMAKER_PROGRAM": "mine.py"}
        )
    )
    assert worker.client().ask(b"1,2").body == b"got 4"


ERRORS = """
    import sys
    def model_fn(model_dir): return 1
    def input_fn(body, content_type): return body
    def predict_fn(data, model):
        if data == "exit": sys.exit(3)
        if data == "memory": raise MemoryError
        if data == "raise": raise ValueError("no such plan: é")
        return data
    def output_fn(p, accept): return p, "text/plain"
"""


def test_an_exception_is_that_requests_500_and_its_traceback_is_logged(start_script):
    worker = start_script(ERRORS)
    client = worker.client()
    head = wire.RequestHead(content_type="text/plain")
    bodies = [b"a", b"raise", b"b", b"exit", b"memory", b"c"]
    answers = client.collect(client.send(*[(head, body) for body in bodies]))
    assert [one.status for one in answers] == [200, 500, 200, 500, 500, 200]
    assert answers[1].body.decode() == "ValueError: no such plan: é"
    assert answers[3].body == b"SystemExit: 3" and answers[4].body == b"MemoryError"
    assert "inference.py" in worker.log() and "line 7, in predict_fn" in worker.log()
    client.ping()


@pytest.mark.parametrize(
    ("code", "reason", "detail"),
    [
        ("def model_fn(d)\n    pass\n", "SyntaxError", "code/inference.py:1"),
        ("import no_such_thing\n", "No module named 'no_such_thing'", "code/inference.py:1"),
        ("x = 1\n", "inference.py lacks model_fn", "define model_fn(model_dir)"),
        ("def model_fn(d):\n    return 1 / 0\n", "ZeroDivisionError", "code/inference.py:2 in model_fn"),
        ("import sys\nsys.exit('no licence')\n", "SystemExit: no licence", "code/inference.py:2"),
        ("def model_fn(d): pass\ndef transform_fn(m,b,c,a): 1\ndef predict_fn(d,m): 1\n", "transform", "or"),
    ],
)  # fmt: skip
def test_load_failures_name_file_and_line(code, reason, detail, start_script):
    worker = start_script(code, wait=False)
    status = worker.wait_for("failed", "ready")
    assert status["state"] == "failed" and reason in status["reason"] and detail in status["detail"], status
    assert worker.process.wait(30) == 1


STREAM = """
    import time
    def model_fn(model_dir): return 1
    def input_fn(body, content_type): return int(body)
    def predict_fn(data, model):
        try:
            for number in range(data):
                if number == 7: raise RuntimeError("lucky")
                yield f"{number};"
        finally:
            print("generator ended")
"""


def test_generators_stream_or_are_joined(start_script):
    worker = start_script(STREAM)
    client = worker.client()
    chunks = client.stream(b"3", "text/plain")
    assert [one.data for one in chunks] == [b"0;", b"1;", b"2;", b""]
    assert [one.flags for one in chunks] == [wire.CHUNK_FIRST, 0, 0, wire.CHUNK_LAST]
    assert {one.status for one in chunks} == {200}
    assert client.ask(b"3", "text/plain").body == b"0;1;2;"
    broken = client.stream(b"9", "text/plain")
    assert broken[-1].flags == wire.CHUNK_LAST | wire.CHUNK_FAILED
    assert broken[-1].data == b"RuntimeError: lucky" and len(broken) == 8
    assert client.ask(b"9", "text/plain").status == 500
    empty = client.stream(b"0", "text/plain")
    assert [one.flags for one in empty] == [wire.CHUNK_FIRST | wire.CHUNK_LAST]


def test_a_cancelled_stream_ends_its_generator(start_script):
    worker = start_script(
        """
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept):
            def forever():
                try:
                    while True: yield b"x" * 100_000
                finally:
                    print("generator ended")
            return forever(), "text/plain"
        """
    )
    client = worker.client()
    (request_id,) = client.send((wire.RequestHead("text/plain", flags="s"), b""))
    assert client.frame()[0] == wire.CHUNK
    client.sock.sendall(wire.encode_cancel(request_id))
    while True:
        _, payload = client.frame()
        if wire.decode_chunk(payload).flags & wire.CHUNK_LAST:
            break
    assert "generator ended" in worker.log()


def test_a_paused_stream_waits_until_it_is_resumed_or_cancelled(start_script):
    worker = start_script(
        """
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept):
            def forever():
                try:
                    while True: yield b"x" * 1000
                finally:
                    print("generator ended")
            return forever(), "text/plain"
        """,
        environment={"UNDERSTUDY_WORKER_THREADS": "2"},
    )
    client = worker.client()
    (request_id,) = client.send((wire.RequestHead("text/plain", flags="s"), b""))
    client.waits_when_paused(request_id)
    client.sock.sendall(wire.encode_resume(request_id))
    assert [client.frame()[0] for _ in range(100)] == [wire.CHUNK] * 100
    client.waits_when_paused(request_id)
    client.sock.sendall(wire.encode_cancel(request_id))
    while not wire.decode_chunk(client.frame()[1]).flags & wire.CHUNK_LAST:
        pass
    assert "generator ended" in worker.log()
    client.ping()


def test_an_endless_generator_for_a_whole_answer_is_the_models_error(start_script):
    worker = start_script(
        """
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept):
            if body == "short": return "fine", "text/plain"
            def forever():
                try:
                    while True: yield b"x" * 1_000_000
                finally:
                    print("generator ended")
            return forever(), "text/plain"
        """
    )
    client = worker.client()
    answer = client.ask(b"endless", "text/plain")
    assert answer.status == 500 and b"InvokeEndpointWithResponseStream" in answer.body
    assert client.ask(b"short", "text/plain").body == b"fine"
    assert "generator ended" in worker.log()


def test_defaults_need_no_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    assert default_input(b'{"instances": [[1, 2]]}', "application/json") == [[1, 2]]
    assert default_input(b"1,2\n3,", "text/csv")[0] == [1.0, 2.0]
    with pytest.raises(Refusal, match=r"requirements\.txt"):
        default_input(b"\x93NUMPY", "application/x-npy")
    assert default_output([[1.0, 2.0]], "text/csv", "application/json") == (b"1.0,2.0\n", "text/csv")


def test_ping_is_answered_while_a_model_thinks(start_script, tmp_path):
    gate = tmp_path / "gate"
    worker = start_script(
        f"""
        import os, time
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept):
            while not os.path.exists({str(gate)!r}): time.sleep(0.005)
            return body, "text/plain"
        """
    )
    client = worker.client()
    ids = client.send((wire.RequestHead("text/plain"), b"a"), (wire.RequestHead("text/plain"), b"b"))
    client.ping()
    client.sock.sendall(wire.encode_cancel(ids[1]))
    client.ping()
    gate.touch()
    assert client.collect(ids[:1])[0].body == b"a"
    assert client.ask(b"c", "text/plain").body == b"c"  # the cancelled one was never asked, nor answered


def test_batch_scripts_get_the_rows_of_all_waiting_requests(start_script, tmp_path):
    gate = tmp_path / "gate"
    worker = start_script(
        f"""
        import os, time
        batch = True
        def model_fn(model_dir): return 1
        def predict_fn(rows, model):
            while not os.path.exists({str(gate)!r}): time.sleep(0.005)
            print("rows", len(rows))
            if (rows < 0).any(): raise ValueError("negative")
            return rows[:, 0] * 2
        """
    )
    client = worker.client()
    head = wire.RequestHead("text/csv")
    first = client.send((head, b"0"))
    client.ping()
    rest = client.send(*[(head, body) for body in (b"1", b"2\n3", b"4")])
    client.ping()
    gate.touch()
    answers = client.collect(first + rest)
    assert [json.loads(one.body) for one in answers] == [[0.0], [2.0], [4.0, 6.0], [8.0]]
    spoilt = client.collect(client.send((head, b"1"), (head, b"-1"), (head, b"x"), (head, b"3")))
    assert [one.status for one in spoilt] == [200, 500, 400, 200]
    assert spoilt[3].body == b"[6.0]"
    assert worker.status()["batch"] is True
    assert any(f"rows {count}" in worker.log() for count in (4, 5))


@pytest.mark.parametrize("given", ["rows[1:]", "rows + [0]", "[]", "numpy.array(3.0)"])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_batch_script_with_too_few_or_many_results_fails_cleanly(start_script, given, at_once):
    client = start_script(
        f"""
        import json, numpy
        batch = True
        def model_fn(model_dir): return 1
        def input_fn(body, content_type): return json.loads(body)
        def predict_fn(rows, model): return rows if rows[0] == "right" else {given}
        """
    ).client()
    head = wire.RequestHead("application/json")
    answers = client.collect(client.send(*[(head, json.dumps([at]).encode()) for at in range(at_once)]))
    for answer in answers:
        assert answer.status == 500 and b"predict_fn gave" in answer.body and b"for 1 rows" in answer.body
    assert client.ask(b'["right", 2]', "application/json").body == b'["right", 2]'


def test_what_has_no_rows_is_predicted_alone_by_a_batch_script(start_script):
    client = start_script(
        """
        import json
        batch = True
        def model_fn(model_dir): return 1
        def input_fn(body, content_type): return {"in": json.loads(body)}
        def predict_fn(data, model): return {"out": data["in"] * 2}
        """
    ).client()
    head = wire.RequestHead("application/json")
    answers = client.collect(client.send(*[(head, str(at).encode()) for at in range(5)]))
    assert [json.loads(one.body) for one in answers] == [{"out": at * 2} for at in range(5)]


def test_a_batch_script_gets_one_request_at_a_time_when_asked(start_script):
    worker = start_script(
        """
        batch = True
        def model_fn(model_dir): return 1
        def predict_fn(rows, model):
            print("rows", len(rows))
            return rows[:, 0]
        """,
        environment={"UNDERSTUDY_BATCH": "0"},
    )
    client, head = worker.client(), wire.RequestHead("text/csv")
    answers = client.collect(client.send(*[(head, str(at).encode()) for at in range(5)]))
    assert [json.loads(one.body) for one in answers] == [[float(at)] for at in range(5)]
    assert worker.status()["batch"] is False and set(re.findall("rows .*", worker.log())) == {"rows 1"}


def test_several_handlers_at_once_when_asked(start_script, tmp_path):
    worker = start_script(
        """
        import threading
        meet = threading.Barrier(3, timeout=60)
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept):
            meet.wait()
            return body, "text/plain"
        """,
        environment={"UNDERSTUDY_WORKER_THREADS": "3"},
    )
    client = worker.client()
    head = wire.RequestHead("text/plain")
    answers = client.collect(client.send((head, b"a"), (head, b"b"), (head, b"c")))
    assert [one.body for one in answers] == [b"a", b"b", b"c"]


def test_response_objects_are_read(start_script):
    client = start_script(
        """
        class Response:
            status_code, mimetype = 418, "text/tea"
            def __init__(self, response): self.response = response
        def model_fn(model_dir): return 1
        def transform_fn(model, body, content_type, accept): return Response(body)
        """
    ).client()
    answer = client.ask(b"short", "text/plain")
    assert (answer.status, answer.body) == (418, b"short")
    assert wire.decode_response_head(answer.head).content_type == "text/tea"
