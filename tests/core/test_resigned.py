"""Prepared signature checks, with botocore's signer and the full check as oracles."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.core.resigned import Recipe, recipe_of
from understudy.core.signing import SignedRequest, verify

KEYS = {"AKIDEXAMPLE": "secret"}
FIRST, SECOND = "11111111-2222-4333-8444-555555555555", "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee"


def signed(body: bytes, invocation_id: str | None = FIRST, path: str = "/a b", **headers: str) -> Any:
    fields = {"Content-Type": "text/csv", "amz-sdk-request": "attempt=1", **headers}
    if invocation_id is not None:
        fields["amz-sdk-invocation-id"] = invocation_id
    request = AWSRequest("POST", f"http://127.0.0.1:8080{path}", fields, body)
    signer = botocore.auth.SigV4Auth(Credentials("AKIDEXAMPLE", "secret"), "sagemaker", "us-east-1")
    signer.add_auth(request)
    sent = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    sent.append((b"host", b"127.0.0.1:8080"))
    raw_path, _, query = path.partition("?")
    return SignedRequest("POST", raw_path.encode(), query.encode(), sent, hashlib.sha256(body).hexdigest())


def signature_of(request: SignedRequest) -> bytes:
    return dict(request.headers)[b"authorization"].rpartition(b"Signature=")[2]


def prepared(request: SignedRequest) -> Recipe | None:
    stamp = dict(request.headers)[b"x-amz-date"].decode()
    moment = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    verified = verify(request, KEYS, now_s=moment.timestamp(), region="us-east-1", services=("sagemaker",))
    recipe = recipe_of(request, verified)
    assert recipe is None or recipe.at_s == moment.timestamp()
    return recipe


@pytest.fixture(autouse=True)
def one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = datetime.datetime(2026, 11, 21, 0, 15, 30)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: moment)


@pytest.mark.parametrize("first_id", [FIRST, None])
def test_kin_is_recognised_and_nothing_else(first_id: str | None) -> None:
    recipe = prepared(signed(b"1,2", first_id))
    second_id = None if first_id is None else SECOND
    kin = signed(b"3,4", second_id)
    sent_id = b"" if second_id is None else second_id.encode()
    assert recipe is not None and kin.body_sha256 is not None
    assert recipe.holds(sent_id, kin.body_sha256, signature_of(kin))
    assert not recipe.holds(sent_id, hashlib.sha256(b"3,5").hexdigest(), signature_of(kin))
    assert not recipe.holds(FIRST.encode()[::-1], kin.body_sha256, signature_of(kin))
    assert not recipe.holds(sent_id, kin.body_sha256, signature_of(signed(b"1,2", first_id)))
    assert not recipe.holds(sent_id, kin.body_sha256, b"0" * 64)


def test_another_header_is_another_family() -> None:
    recipe = prepared(signed(b"1"))
    other = signed(b"1", **{"X-Amzn-SageMaker-Target-Variant": "B"})
    assert recipe is not None and other.body_sha256 is not None
    assert not recipe.holds(FIRST.encode(), other.body_sha256, signature_of(other))


def test_what_is_not_simple_has_no_recipe() -> None:
    assert prepared(signed(b"1", path="/a?b=c")) is None
    stated = signed(b"1", **{"X-Amz-Content-SHA256": hashlib.sha256(b"1").hexdigest()})
    assert prepared(stated) is None


def test_two_invocation_ids_have_no_recipe() -> None:
    request = signed(b"1", None)
    twice = [*request.headers, *[(b"amz-sdk-invocation-id", FIRST.encode())] * 2]
    request = SignedRequest("POST", request.raw_path, b"", twice, request.body_sha256)
    assert prepared(request) is None


@settings(deadline=None, max_examples=60)
@given(body=st.binary(max_size=50), value=st.text(" ,;=abc", max_size=12), uuid=st.uuids(version=4))
def test_it_says_what_the_full_check_says(body: bytes, value: str, uuid: Any) -> None:
    recipe = prepared(signed(b"first", FIRST, **{"X-Amzn-SageMaker-Custom-Attributes": f"a{value}b"}))
    kin = signed(body, str(uuid), **{"X-Amzn-SageMaker-Custom-Attributes": f"a{value}b"})
    assert recipe is not None and kin.body_sha256 is not None
    assert prepared(kin) is not None  # the full check holds
    assert recipe.holds(str(uuid).encode(), kin.body_sha256, signature_of(kin))
