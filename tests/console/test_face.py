"""Who gets in, what they may ask, and what binds the browser."""

from __future__ import annotations

import gzip
import json
import re
import stat
from typing import Any

import pytest

from understudy.console.allowed import READS, WRITES
from understudy.console.face import is_signed
from understudy.console.files import FOLDER, ConsoleFiles
from understudy.console.sessions import FAILURES, SESSION_S
from understudy.operations.registry import OPERATIONS

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"
LIST = "call/sagemaker/ListModels"


def test_nothing_without_a_session(scene: Any) -> None:
    client = scene.client()
    for path in ("status", "statistics", "lineage", "events", "captures", "differences", "live"):
        assert client.get(f"/api/{path}").status == 401, path
    for path in (LIST, "invoke", "sign-out", "call/sagemaker/DeleteModel"):
        assert client.post(path, {}).status == 401, path
    assert client.get("/api/session").json == {"signed_in": False, "version": "0.1.0", "mode": "on"}


def test_sign_in_and_out(scene: Any) -> None:
    client = scene.client()
    wrong = client.post("sign-in", {"access_key_id": KEY, "secret_access_key": "wrong"})
    assert (wrong.status, wrong.json["code"]) == (403, "WrongKey") and not client.cookies
    unknown = client.post("sign-in", {"access_key_id": "AKIDOTHER", "secret_access_key": SECRET})
    assert unknown.json == wrong.json
    told = client.post("sign-in", {"access_key_id": KEY, "secret_access_key": SECRET})
    flags = told.headers["set-cookie"].lower()
    assert "httponly" in flags and "samesite=strict" in flags and "path=/console" in flags
    assert "secure" not in flags
    client.csrf = told.json["csrf"]
    assert client.post(LIST, {}).json == {"Models": []}
    again = client.get("/api/session").json
    assert again["signed_in"] and again["csrf"] == client.csrf and SECRET not in json.dumps(again)
    cookie = dict(client.cookies)
    assert client.post("sign-out", {}).status == 200
    client.cookies = cookie  # as one who kept it
    assert client.post(LIST, {}).status == 401
    assert stat.S_IMODE(scene.secret_path.stat().st_mode) == 0o600


def test_behind_tls_the_cookie_is_secure(scene: Any) -> None:
    told = scene.client().post(
        "sign-in", {"access_key_id": KEY, "secret_access_key": SECRET}, x_forwarded_proto="https"
    )
    assert "secure" in told.headers["set-cookie"].lower()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"access_key_id": 1}', b"\xff", b'{"a": {"b": 1}}'])
def test_a_broken_sign_in_is_told_so(scene: Any, body: bytes) -> None:
    told = scene.client().ask(
        "POST", "/console/api/sign-in", body=body, headers={"content-type": "application/json"}
    )
    assert told.status == 400


def test_sessions_end(scene: Any) -> None:
    client = scene.signed_in()
    scene.clock.at_s += SESSION_S - 1
    assert client.post(LIST, {}).status == 200
    scene.clock.at_s += 2
    assert client.post(LIST, {}).status == 401


def test_a_renewed_key_ends_sessions(scene: Any) -> None:
    client = scene.signed_in()
    scene.keys[KEY] = "another"
    assert client.post(LIST, {}).status == 401


def test_sessions_outlive_the_controller(scene: Any) -> None:
    client = scene.signed_in()
    client.application = scene.face()
    assert client.post(LIST, {}).status == 200


def test_who_signed_out_stays_out_of_the_next_controller(scene: Any) -> None:
    client, other = scene.signed_in(), scene.signed_in()
    cookie = dict(client.cookies)
    assert client.post("sign-out", {}).status == 200
    client.application = other.application = scene.face()
    client.cookies = cookie  # as one who kept it
    assert client.post(LIST, {}).status == 401
    assert other.post(LIST, {}).status == 200
    scene.clock.at_s += SESSION_S + 1  # long over: its name is not kept any more
    late = scene.signed_in()
    assert late.post("sign-out", {}).status == 200
    (ended,) = scene.secret_path.parent.glob("*-ended")
    assert len(json.loads(ended.read_bytes())) == 1
    assert stat.S_IMODE(ended.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change", [lambda v: v[:-1], lambda v: v + "0", lambda v: "x" + v, lambda v: "é." + v]
)
def test_a_forged_cookie_is_none(scene: Any, change: Any) -> None:
    client = scene.signed_in()
    (name, value), *_ = client.cookies.items()
    client.cookies[name] = change(value).encode("ascii", "replace").decode()
    assert client.get("/api/status").status == 401


def test_many_wrong_keys_make_everybody_wait(scene: Any) -> None:
    client = scene.client()
    for _ in range(FAILURES):
        assert client.post("sign-in", {"access_key_id": KEY, "secret_access_key": "guess"}).status == 403
    told = client.post("sign-in", {"access_key_id": KEY, "secret_access_key": SECRET})
    assert told.status == 429 and 1 <= int(told.headers["retry-after"]) <= 61


@pytest.mark.parametrize("path", [LIST, "call/sagemaker/DeleteModel", "invoke", "sign-out"])
def test_forged_requests_are_refused(scene: Any, path: str) -> None:
    client = scene.signed_in()
    assert client.post(path, {}, x_understudy_csrf="").json["code"] == "BadToken"
    assert client.post(path, {}, x_understudy_csrf="é").status == 403
    assert client.post(path, {}, origin="https://evil.example").json["code"] == "ForeignSite"
    assert client.post(path, {}, sec_fetch_site="cross-site").json["code"] == "ForeignSite"
    assert client.post(path, {}, content_type="text/plain").status == 415
    other = scene.signed_in()
    assert client.post(path, {}, x_understudy_csrf=other.csrf).json["code"] == "BadToken"


def test_operations_are_the_apis_own(scene: Any) -> None:
    client = scene.signed_in()
    told = client.post("call/sagemaker/DescribeModel", {"ModelName": "none"})
    assert (
        told.status == 400 and told.json["code"] == "ValidationException" and "none" in told.json["message"]
    )
    told = client.post("call/sagemaker/DescribeModel", {"ModelName": "no name"})
    assert "regular expression" in told.json["message"]
    told = client.post("call/sagemaker/DescribeModel", {})
    assert told.status == 400
    for body in (b"{", b"[]", b'{"ModelName": 1}', b'{"Nothing": 1}', b'{"a":1,"a":2}'):
        headers = {"content-type": "application/json", "x-understudy-csrf": client.csrf}
        told = client.ask("POST", f"/console/api/{LIST}", body=body, headers=headers)
        assert told.status == 400, body


@pytest.mark.parametrize(
    "path", ["call/sagemaker/CreateModel", "call/s3/GetObject", "call/iam/CreateRole", "call", "x"]
)
def test_other_operations_are_none_of_the_consoles(scene: Any, path: str) -> None:
    assert scene.signed_in().post(path, {}).status == 404


def test_the_lists_hold_operations_of_json_services() -> None:
    assert not READS & WRITES
    assert {service for service, _ in READS | WRITES} <= {"sagemaker", "cloudwatch", "logs"}
    assert OPERATIONS.keys() >= READS | WRITES
    assert all(name.startswith(("Describe", "List", "Get", "Filter")) for _, name in READS)
    assert not any(name.startswith(("Describe", "List", "Get", "Filter")) for _, name in WRITES)


def test_read_only_changes_nothing(scene: Any) -> None:
    client = scene.signed_in("readonly")
    for service, operation in WRITES:
        told = client.post(f"call/{service}/{operation}", {})
        assert (told.status, told.json["code"]) == (403, "AccessDeniedException"), operation
    assert client.post("invoke", {"endpoint": "churn"}).status == 403 and not scene.sent
    assert client.post(LIST, {}).status == 200
    assert client.get("/api/session").json["mode"] == "readonly"


def test_questions_and_refusals_of_own_calls(scene: Any) -> None:
    """A refusal is an answer among others; a POST that only asks is open to read-only consoles."""
    client = scene.signed_in("readonly")
    told = client.get("/api/answers?paths=endpoints%2Fnone%2Fverdict%0Aendpoints%2Fno%2520ne%2Fquality")
    assert told.status == 200
    assert [one["status"] for one in told.json["answers"]] == [400, 400]
    assert "no ne" in told.json["answers"][1]["told"]["message"]
    assert client.get("/api/answers").status == 400
    assert client.get("/api/answers?paths=" + "%0A".join(["x"] * 21)).status == 400
    for question in ("guardrails", "verdict", "plan"):
        asked = client.post(f"own/endpoints/none/{question}", {})
        assert asked.json["code"] == "ValidationException", question
    for change in ("rollback", "outcomes"):
        assert client.post(f"own/endpoints/none/{change}", {}).json["code"] == "AccessDeniedException"


def test_own_calls_are_the_same_as_over_rest(scene: Any) -> None:
    client = scene.signed_in()
    told = client.get("/api/own/endpoints/none/rollout")
    assert (
        told.status == 400 and "none" in told.json["message"] and told.json["code"] == "ValidationException"
    )
    assert client.get("/api/own/nothing/of/it").status == 404
    assert client.post("own/endpoints/none/rollback", {"reason": "x"}, x_understudy_csrf="").status == 403
    assert client.post("own/endpoints/none/rollback", {"reason": "x"}).status == 400
    readonly = scene.signed_in("readonly")
    assert readonly.post("own/endpoints/none/rollback", {}).json["code"] == "AccessDeniedException"
    assert readonly.get("/api/own/endpoints/none/rollout").status == 400
    for method in ("PUT", "DELETE", "PATCH"):
        told = readonly.ask(method, "/console/api/own/endpoints/none/policy")
        assert told.status in (403, 405, 415), method


def test_off_is_off(scene: Any) -> None:
    client = scene.client("off")
    assert client.get("").status == 404 and client.get("/api/session").status == 404
    assert client.post("sign-in", {"access_key_id": KEY, "secret_access_key": SECRET}).status == 404


def test_without_signatures_only_this_machine(scene: Any) -> None:
    client = scene.client(open_=True)
    told = client.get("/api/session").json
    assert told["signed_in"] and told["open"]
    assert client.post(LIST, {}).json["code"] == "BadToken"  # other pages of the browser have no token
    client.csrf = told["csrf"]
    assert client.post(LIST, {}).status == 200
    for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "[::2]:80"):
        client.host = host
        assert client.get("/api/session").status == 403, host
    for host in ("localhost:8080", "LOCALHOST", "[::1]:8080", "127.0.0.1"):
        client.host = host
        assert client.get("/api/session").status == 200, host


def test_every_answer_binds_the_browser(scene: Any) -> None:
    client = scene.signed_in()
    for path in ("", "/endpoints/x", "/api/session", "/api/nothing", "/static/x/y", "/api/events"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def brought_along(page: Any) -> Any:
    """The session in a page."""
    found = re.findall(
        r'<script type="application/json" id="session">(.*?)</script>', page.body.decode(), re.DOTALL
    )
    assert len(found) == 1
    return json.loads(found[0])


def test_the_page_brings_the_session_along(scene: Any) -> None:
    client = scene.client()
    assert brought_along(client.get("/models")) == client.get("/api/session").json
    client = scene.signed_in()
    told, asked = brought_along(client.get("/models")), client.get("/api/session").json
    assert told.pop("now_s") <= asked.pop("now_s")
    assert told == asked and told["signed_in"] and told["csrf"] == client.csrf
    assert SECRET not in json.dumps(told)


def test_without_signatures_the_page_begins_the_session(scene: Any) -> None:
    client = scene.client(open_=True)
    client.csrf = brought_along(client.get(""))["csrf"]
    assert client.post(LIST, {}).status == 200


@pytest.mark.parametrize(
    ("path", "asks"),
    [
        ("", True),
        ("/endpoints/a", True),
        ("/endpoints/a/update", False),
        ("/models", False),
        ("/invoke", True),
    ],
)
def test_what_a_page_asks_first_is_fetched_with_it(scene: Any, path: str, asks: bool) -> None:
    found = re.findall(
        r'<link rel="preload" href="/console([^"]+)"', scene.signed_in().get(path).body.decode()
    )
    assert found == (["/api/status"] if asks else [])
    assert "/api/" not in scene.client().get(path).body.decode()  # it would be refused


def test_what_the_session_says_ends_no_element(scene: Any) -> None:
    hostile = {"access_key_id": "</script><script>alert(1)</script><!--", "signed_in": True}
    page = ConsoleFiles().page_at("", hostile).decode()
    assert page.count("<script") == 2 and "<!--" not in page
    told = re.search(r'id="session">(.*?)</script>', page)
    assert told is not None and json.loads(told[1]) == hostile


def test_files_are_kept_for_ever_under_their_hash(scene: Any) -> None:
    client = scene.client()
    page = client.get("")
    assert page.headers["cache-control"] == "no-store"  # it has the viewer's session in it
    files = re.findall(r'(?:href|src)="/console(/static/[^"]+)"', page.body.decode())
    assert len(files) == 3
    for path in files:
        told = client.get(path, **{"accept-encoding": "gzip"})
        assert told.status == 200 and "immutable" in told.headers["cache-control"], path
        plain = client.get(path)
        assert gzip.decompress(told.body) == plain.body
    assert client.get(files[0].replace("/static/", "/static/0")).status == 404
    for path in ("/static/", "/static/x/../../face.py", f"{files[0]}/../../../face.py"):
        assert client.get(path).status == 404


@pytest.mark.parametrize(
    "path", ["", "/nothing", "/endpoints/a", "/ab/a", "/shadow-tests/", "/alarms", "/models"]
)
def test_a_page_names_what_its_address_needs(scene: Any, path: str) -> None:
    client = scene.client()
    page = client.get(path).body.decode()
    assert not re.search(r"\{[a-z]+\}", page)
    scripts = re.findall(r'<script type="module" src="/console(/static/[^"]+)"', page)
    named = re.findall(r'<link rel="modulepreload" href="/console/static/\w+/([^"]+)">', page)
    assert len(scripts) == 1 and scripts[0].endswith("/js/main.js")
    charts = path.strip("/").partition("/")[0] in ("endpoints", "ab", "alarms")
    assert named == (["vendor/uplot-1.6.32.esm.js"] if charts else [])
    # All modules came with it, and none of them is served by itself.
    script = client.get(scripts[0]).body.decode()
    modules = {file.relative_to(FOLDER).as_posix() for file in (FOLDER / "js").rglob("*.js")} - {"js/main.js"}
    assert modules == set(re.findall(r"^'(js/[^']+)': \(\) => \{$", script, re.MULTILINE))
    assert client.get(scripts[0].replace("main", "dom")).status == 404


def test_the_first_page_is_small(scene: Any) -> None:
    """Everything that the overview loads: below 100 kB, packed."""
    client = scene.client()
    page = client.get("")  # too short to be packed
    files = re.findall(r'(?:href|src)="/console(/static/[^"]+)"', page.body.decode())
    assert len(files) == 3  # icon, styles, script
    told = [client.get(path, **{"accept-encoding": "gzip"}) for path in files]
    assert all(one.status == 200 for one in told)
    assert len(page.body) + sum(len(one.body) for one in told) < 100_000


def test_an_s3_bucket_may_be_called_console() -> None:
    def scope(query: bytes = b"", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
        return {"query_string": query, "headers": headers}

    assert is_signed(scope(b"", (b"authorization", b"AWS4-HMAC-SHA256 Credential=...")))
    assert is_signed(scope(b"X-Amz-Algorithm=x&X-Amz-Signature=00"))
    assert not is_signed(scope(b"endpoint=X", (b"cookie", b"x=y")))


def test_the_invoke_box_sends(scene: Any) -> None:
    client = scene.signed_in()
    assert client.post("invoke", {"endpoint": "churn", "body": "1,2"}).json["text"] == "0.5"
    assert scene.sent == [{"endpoint": "churn", "body": "1,2"}]
    for bad in ({}, {"endpoint": ""}, {"endpoint": 1}, []):
        assert client.post("invoke", bad).status == 400


@pytest.mark.parametrize(
    "path",
    [
        "statistics",
        "statistics?endpoint=e&variants=v&start_s=2&end_s=1",
        "statistics?endpoint=e&variants=v&start_s=nan&end_s=1",
        "statistics?endpoint=e&variants=v&start_s=0&end_s=inf",
        "statistics?endpoint=e&variants=,&start_s=0&end_s=9",
        "captures?endpoint=e&variants=v&start_s=0",
        "captures?endpoint=e&variants=v&start_s=0&end_s=9&limit=0&destination=s3://b/p",
        "captures?endpoint=e&variants=v&start_s=0&end_s=9&limit=1e9&destination=s3://b/p",
        "differences?endpoint=e&start_s=0&end_s=9",
        "differences?endpoint=e&production=a&candidate=b&start_s=0&end_s=9",
        "events",
        "events?arn=x&limit=-1",
    ],
)
def test_unreadable_questions_are_told_so(scene: Any, path: str) -> None:
    told = scene.signed_in().get(f"/api/{path}")
    assert (told.status, told.json["code"]) == (400, "BadRequest"), told
