"""SigV4 and SigV2 checks, with botocore's signers as the oracle."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any
from urllib.parse import quote, urlsplit

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from understudy.core.signing import (
    EMPTY_SHA256,
    Reason,
    SignatureFailure,
    SignedRequest,
    Verified,
    chunk_signature,
    verify,
)

NOW = datetime.datetime(2026, 11, 21, 0, 15, 30, tzinfo=datetime.UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CREDENTIALS = {"AKIDEXAMPLE": SECRET}


@pytest.fixture(autouse=True)
def frozen_time(monkeypatch: pytest.MonkeyPatch) -> None:
    freeze(monkeypatch)


def freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *a, **k: NOW.replace(tzinfo=None))
    monkeypatch.setattr(botocore.auth.time, "time", lambda: NOW.timestamp())


def sign(
    signer: Any,
    *,
    method: str = "POST",
    url: str = "http://127.0.0.1:8080/",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    token: str | None = None,
    service: str = "sagemaker",
    region: str = "us-east-1",
    **options: Any,
) -> SignedRequest:
    """Sign with botocore and return what a server would see."""
    request = AWSRequest(method=method, url=url, headers=headers or {}, data=body)
    credentials = Credentials("AKIDEXAMPLE", SECRET, token)
    if signer is botocore.auth.HmacV1QueryAuth:
        signer(credentials, **options).add_auth(request)
    else:
        signer(credentials, service, region, **options).add_auth(request)
    parts = urlsplit(request.url)
    seen = [(name.lower().encode(), str(value).encode()) for name, value in request.headers.items()]
    if not any(name == b"host" for name, _ in seen):
        seen.append((b"host", parts.netloc.encode()))
    if signer is botocore.auth.HmacV1QueryAuth:
        seen = [(name, value) for name, value in seen if name != b"date"]
    return SignedRequest(
        method,
        (parts.path or "/").encode(),
        parts.query.encode(),
        seen,
        hashlib.sha256(body).hexdigest(),
    )


def check(request: SignedRequest, **changes: Any) -> Verified:
    arguments: dict[str, Any] = {
        "now_s": NOW.timestamp(),
        "region": "us-east-1",
        "services": ("sagemaker", "s3"),
    }
    arguments |= changes
    return verify(request, arguments.pop("credentials", CREDENTIALS), **arguments)


def refusal(request: SignedRequest, **changes: Any) -> SignatureFailure:
    with pytest.raises(SignatureFailure) as caught:
        check(request, **changes)
    assert SECRET not in caught.value.message
    return caught.value


def change(request: SignedRequest, **fields: Any) -> SignedRequest:
    names = ("method", "raw_path", "raw_query", "headers", "body_sha256")
    return SignedRequest(**({name: getattr(request, name) for name in names} | fields))


def with_header(request: SignedRequest, name: bytes, value: bytes | None) -> SignedRequest:
    kept = [(key, text) for key, text in request.headers if key != name]
    return change(request, headers=kept if value is None else [*kept, (name, value)])


header_values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=20)
segments = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    signer=st.sampled_from(["sigv4", "s3", "sigv4-query", "s3-query", "sigv2"]),
    method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
    path=st.lists(segments, max_size=4),
    query=st.lists(st.tuples(segments, segments), max_size=4, unique_by=lambda pair: pair[0]),
    headers=st.dictionaries(tokens.map(lambda name: "x-amz-meta-" + name), header_values, max_size=4),
    body=st.binary(max_size=100),
    token=st.none() | tokens,
    data=st.data(),
)
def test_agrees_with_botocore_and_refuses_every_mutation(
    signer: str,
    method: str,
    path: list[str],
    query: list[tuple[str, str]],
    headers: dict[str, str],
    body: bytes,
    token: str | None,
    data: Any,
) -> None:
    classes = {
        "sigv4": (botocore.auth.SigV4Auth, "sagemaker", {}),
        "s3": (botocore.auth.S3SigV4Auth, "s3", {}),
        "sigv4-query": (botocore.auth.SigV4QueryAuth, "sagemaker", {"expires": 60}),
        "s3-query": (botocore.auth.S3SigV4QueryAuth, "s3", {"expires": 60}),
        "sigv2": (botocore.auth.HmacV1QueryAuth, "s3", {"expires": 60}),
    }
    kind, service, options = classes[signer]
    url = "http://127.0.0.1:8080/" + "/".join(quote(part, safe="~") for part in path)
    if query and signer != "sigv2":
        url += "?" + "&".join(f"{quote(name, safe='~')}={quote(value, safe='~')}" for name, value in query)
    if signer.endswith("-query"):
        body = b""  # botocore would move it into the query
    if signer == "sigv2":
        headers, token = {}, None  # botocore moves them into the query: its own test below
    request = sign(
        kind, method=method, url=url, headers=headers, body=body, token=token, service=service, **options
    )
    verified = check(request)
    assert (verified.access_key_id, verified.service) == ("AKIDEXAMPLE", service)

    # One byte of anything that was signed, changed.
    part = data.draw(st.sampled_from(["method", "raw_path", "raw_query", "headers", "body"]))
    if part == "method":
        mutated = change(request, method="PATCH")
    elif part == "body":
        if verified.payload_hash_claim == "UNSIGNED-PAYLOAD":
            return
        mutated = change(request, body_sha256=hashlib.sha256(body + b"x").hexdigest())
    elif part == "headers":
        index = data.draw(st.integers(0, len(request.headers) - 1))
        name, value = request.headers[index]
        if signer == "sigv2":
            return  # it signs no Host
        replaced = list(request.headers)
        changed = mutate(data, value)
        if b" ".join(changed.split()) == b" ".join(value.split()):
            return  # white space is folded before signing
        replaced[index] = (name, changed)
        mutated = change(request, headers=replaced)
    else:
        original = getattr(request, part)
        if not original:
            return
        changed = mutate(data, original)
        if signer == "sigv4" and part == "raw_path" and b"." in changed:
            return  # dot segments are normalised before signing
        if sorted(changed.split(b"&")) == sorted(original.split(b"&")) or changed == original + b"&":
            return
        if (
            signer == "sigv2"
            and part == "raw_query"
            and not any(changed.count(name) != 1 for name in (b"AWSAccessKeyId=", b"Signature=", b"Expires="))
            and fields(changed) == fields(original)
        ):
            return  # percent-encoding of the signature itself is not signed
        mutated = change(request, **{part: changed})
    with pytest.raises(SignatureFailure):
        check(mutated)


def fields(query: bytes) -> list[str]:
    from urllib.parse import unquote_plus

    return [unquote_plus(pair.decode("latin-1")) for pair in query.split(b"&")]


def mutate(data: Any, value: bytes) -> bytes:
    if not value:
        return b"x"
    index = data.draw(st.integers(0, len(value) - 1))
    byte = data.draw(st.sampled_from([b for b in b"aZ09-_" if b != value[index]]))
    return value[:index] + bytes((byte,)) + value[index + 1 :]


def test_every_single_byte_of_an_invocation_counts() -> None:
    request = invocation()
    check(request)
    places = [("raw_path", request.raw_path)]
    for field, original in places:
        for index in range(len(original)):
            changed = original[:index] + bytes((original[index] ^ 1,)) + original[index + 1 :]
            refusal(change(request, **{field: changed}))
    for number, (name, value) in enumerate(request.headers):
        for index in range(len(value)):
            headers = list(request.headers)
            flipped = value[:index] + bytes((value[index] ^ 1,)) + value[index + 1 :]
            headers[number] = (name, flipped)
            if flipped.split() != value.split():
                refusal(change(request, headers=headers))


def invocation(**options: Any) -> SignedRequest:
    return sign(
        botocore.auth.SigV4Auth,
        url="http://127.0.0.1:8080/endpoints/demo/invocations",
        headers={"Content-Type": "text/csv", "X-Amzn-SageMaker-Target-Variant": "blue"},
        body=b"1,2,3",
        **options,
    )


def test_amazons_documented_example() -> None:
    """The GET of the S3 guide, "Authenticating requests: using the Authorization header"."""
    signature = "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    authorization = (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature={signature}"
    )
    request = SignedRequest(
        "GET",
        b"/test.txt",
        b"",
        [
            (b"host", b"examplebucket.s3.amazonaws.com"),
            (b"authorization", authorization.encode()),
            (b"range", b"bytes=0-9"),
            (b"x-amz-content-sha256", EMPTY_SHA256.encode()),
            (b"x-amz-date", b"20130524T000000Z"),
        ],
        None,
    )
    moment = datetime.datetime(2013, 5, 24, tzinfo=datetime.UTC).timestamp()
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    found = verify(
        request, {"AKIAIOSFODNN7EXAMPLE": secret}, now_s=moment, region="us-east-1", services=("s3",)
    )
    assert found.signature == signature


def test_amazons_documented_chunk_signatures() -> None:
    """The chunks of the S3 guide, "Transferring payload in multiple chunks"."""
    from understudy.core import signing

    seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    key = signing._signing_key("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "20130524", "us-east-1", "s3")
    verified = Verified(
        "AKIAIOSFODNN7EXAMPLE",
        "s3",
        "us-east-1",
        seed,
        "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
        key,
        "20130524/us-east-1/s3/aws4_request",
        "20130524T000000Z",
    )
    first = chunk_signature(verified, seed, hashlib.sha256(b"a" * 65536).hexdigest())
    assert first == "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"
    second = chunk_signature(verified, first, hashlib.sha256(b"a" * 1024).hexdigest())
    assert second == "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"
    last = chunk_signature(verified, second, EMPTY_SHA256)
    assert last == "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"


def test_sigv2_with_headers_moved_into_the_query() -> None:
    request = sign(
        botocore.auth.HmacV1QueryAuth,
        method="PUT",
        url="http://127.0.0.1:8080/bucket/a%20b?uploadId=x%2By&partNumber=3&ignored=1",
        headers={"content-type": "text/plain", "x-amz-meta-a": "1 2"},
        token="session",
        expires=60,
    )
    sent = change(request, headers=[(b"host", b"127.0.0.1:8080"), (b"content-type", b"text/plain")])
    assert check(sent).payload_hash_claim == "UNSIGNED-PAYLOAD"
    assert refusal(with_header(sent, b"content-type", b"text/html")).reason is Reason.MISMATCH
    assert refusal(with_header(sent, b"x-amz-acl", b"public-read")).reason is Reason.MISMATCH
    assert refusal(change(sent, raw_path=b"/bucket/a%20c")).reason is Reason.MISMATCH
    other_part = sent.raw_query.replace(b"partNumber=3", b"partNumber=4")
    assert refusal(change(sent, raw_query=other_part)).reason is Reason.MISMATCH
    assert refusal(sent, now_s=NOW.timestamp() + 61).wire("s3") == ("AccessDenied", 403)
    assert refusal(sent, services=("sagemaker",)).reason is Reason.MISSING


def test_what_must_be_signed() -> None:
    request = invocation(token="session")
    authorization = dict(request.headers)[b"authorization"]
    for name in (b"host", b"x-amz-date", b"x-amz-security-token"):
        thinner = authorization.replace(name + b";", b"").replace(b";" + name, b"")
        assert thinner != authorization
        assert refusal(with_header(request, b"authorization", thinner)).reason in (
            Reason.INCOMPLETE,
            Reason.UNSIGNED_HEADER,
        )
    smuggled = with_header(request, b"x-amz-target", b"SageMaker.DeleteEndpoint")
    assert refusal(smuggled).reason is Reason.UNSIGNED_HEADER
    steered = with_header(request, b"x-amzn-sagemaker-target-model", b"other")
    assert refusal(steered).reason is Reason.UNSIGNED_HEADER
    check(with_header(request, b"x-amzn-trace-id", b"Root=1"))  # load balancers add it on the way
    assert refusal(with_header(request, b"x-amz-date", None)).reason is Reason.MISMATCH
    assert refusal(with_header(request, b"content-type", None)).reason is Reason.MISMATCH


def test_time_and_scope() -> None:
    request = invocation()
    at_s = NOW.timestamp()
    check(request, now_s=at_s + 300)
    check(request, now_s=at_s - 300)
    late = refusal(request, now_s=at_s + 301)
    assert late.wire("json") == ("RequestTimeTooSkewed", 403)
    assert "ServerTime: 20261121T002031Z" in late.message
    assert refusal(request, now_s=at_s - 301).reason is Reason.SKEWED
    check(request, now_s=at_s + 800, skew_s=900)
    wrong_region = refusal(request, region="eu-west-1")
    assert wrong_region.reason is Reason.SCOPE
    assert wrong_region.message.startswith("Credential should be scoped to a valid region, ")
    assert refusal(request, services=("monitoring",)).reason is Reason.SCOPE
    authorization = dict(request.headers)[b"authorization"]
    for old, new in ((b"20261121", b"20261120"), (b"aws4_request", b"aws4_requess")):
        assert (
            refusal(with_header(request, b"authorization", authorization.replace(old, new))).reason
            is Reason.SCOPE
        )


def test_presigned_urls_expire() -> None:
    url = "http://127.0.0.1:8080/b/k"
    request = sign(botocore.auth.S3SigV4QueryAuth, method="GET", url=url, service="s3", expires=60)
    check(request, now_s=NOW.timestamp() + 60)
    assert refusal(request, now_s=NOW.timestamp() + 61).wire("s3") == ("AccessDenied", 403)
    assert refusal(request, now_s=NOW.timestamp() - 301).reason is Reason.EXPIRED
    longest = sign(botocore.auth.S3SigV4QueryAuth, method="GET", url=url, service="s3", expires=604_801)
    assert refusal(longest).reason is Reason.INCOMPLETE
    twice = change(request, raw_query=request.raw_query + b"&X-Amz-Expires=600")
    assert refusal(twice).reason is Reason.INCOMPLETE
    assert refusal(with_header(request, b"x-amz-acl", b"public-read")).reason is Reason.UNSIGNED_HEADER


def test_payload_claims() -> None:
    signer = botocore.auth.S3SigV4Auth
    request = sign(signer, method="PUT", url="http://h/b/k", body=b"abc", service="s3")
    assert check(change(request, body_sha256=None)).payload_hash_claim == hashlib.sha256(b"abc").hexdigest()
    assert refusal(change(request, body_sha256=EMPTY_SHA256)).wire("s3") == ("XAmzContentSHA256Mismatch", 400)
    for service, claim in (("sagemaker", "UNSIGNED-PAYLOAD"), ("s3", "nonsense"), ("s3", "A" * 64)):
        headers = {"X-Amz-Content-SHA256": claim}
        stated = sign(botocore.auth.SigV4Auth, body=b"abc", service=service, headers=headers)
        assert refusal(stated).reason in (Reason.INCOMPLETE, Reason.PAYLOAD)
    unread = change(invocation(), body_sha256=None)
    assert refusal(unread).reason is Reason.INCOMPLETE


def test_malformed_authorization_is_refused_not_crashed_on() -> None:
    request = invocation()
    good = dict(request.headers)[b"authorization"]
    for bad in (
        b"",
        b"AWS AKIDEXAMPLE:abc=",
        b"Bearer x",
        good.replace(b"AWS4-HMAC-SHA256", b"AWS4-HMAC-SHA1"),
        good.replace(b"Credential=", b"Credentials="),
        good.replace(b"SignedHeaders=", b"Credential=x, SignedHeaders="),
        good.replace(b"content-type;host", b"host;content-type"),
        good.replace(b"content-type;host", b"content-type;host;host"),
        good.replace(b"content-type;host", b"Content-Type;host"),
        good.replace(b"/us-east-1/", b"/"),
        good + b", Signature=" + b"0" * 64,
        good[:-1],
        good + b"0",
        good.upper(),
        good.replace(b"AKID", b"\xff\xfe"),
        b"\x00" * 100,
    ):
        failure = refusal(with_header(request, b"authorization", bad))
        for family in ("json", "query", "s3"):
            code, status = failure.wire(family)
            assert code
            assert status in (400, 403)
    assert refusal(with_header(request, b"authorization", None)).reason is Reason.MISSING
    assert (
        refusal(change(request, headers=[*request.headers, (b"authorization", good)])).reason
        is Reason.INCOMPLETE
    )
    assert refusal(change(request, raw_query=b"X-Amz-Signature=x")).reason is Reason.INCOMPLETE
    for query in (b"X-Amz-Algorithm=AWS4-HMAC-SHA256", b"X-Amz-Signature=%ff", b"AWSAccessKeyId=AKIDEXAMPLE"):
        unsigned = change(with_header(request, b"authorization", None), raw_query=query)
        assert refusal(unsigned).reason is Reason.INCOMPLETE
    for date in (b"20261321T001530Z", b"20261121T001530", b"yesterday", b"\xff"):
        assert refusal(with_header(request, b"x-amz-date", date)).reason in (Reason.INCOMPLETE, Reason.SCOPE)
    assert refusal(request, credentials={}).wire("json") == ("UnrecognizedClientException", 403)
