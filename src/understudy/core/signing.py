"""Checks AWS request signatures: SigV4 in headers and in the query, SigV2 in S3's presigned query.

Owns the canonical request over the raw, undecoded path and query, and the verdict.  Refuses anything
not signed that could change what a request does: ``host``, ``x-amz-date`` and every ``x-amz-*`` header
must be signed.  SigV4 itself permits replay within the allowed skew; only TLS hides requests from it.
Main function: :func:`verify`.

Differs from AWS: ``x-amzn-sagemaker-*`` headers must be signed as well (every SDK does), because they choose
the variant; a request dated only by ``Date`` (without ``X-Amz-Date``) is refused, and so is SigV2
in a header.

Source: AWS General Reference, "Signature Version 4 signing process"; S3 API, "Signing and
authenticating REST requests" (version 2, query string authentication alternative).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from understudy.core.canonical import canonical_path, canonical_query, query_parameters, sub_resources
from understudy.core.signatures import Reason, SignatureFailure, SignedRequest, Verified

__all__ = [
    "EMPTY_SHA256",
    "Reason",
    "SignatureFailure",
    "SignedRequest",
    "Verified",
    "chunk_signature",
    "trailer_signature",
    "verify",
]

ALGORITHM = b"AWS4-HMAC-SHA256"
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
MAX_SKEW_S = 300.0  # AWS's: five minutes
MAX_PRESIGNED_S = 604_800  # AWS's own limit: seven days

_MUST_BE_SIGNED = (b"x-amz-", b"x-amzn-sagemaker-")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_AMZ_DATE = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class _Claim:
    """The repeating part of an Authorization header or presigned query."""

    access_key_id: str
    date: str
    region: str
    service: str
    scope: str
    signed_headers: bytes
    signed_names: tuple[bytes, ...]
    signed_set: frozenset[bytes]


def verify(
    request: SignedRequest,
    credentials: Mapping[str, str],
    *,
    now_s: float,
    region: str,
    services: Collection[str],
    skew_s: float = MAX_SKEW_S,
) -> Verified:
    """Check who signed a request.

    Args:
        credentials: Secret by access key id.
        now_s: Unix time (real, never scaled).
        region: The region that the scope must name.
        services: Signing names that the scope may name, e.g. ``("sagemaker",)``.
        skew_s: How far the request's own time may be off, seconds, either way.
    Raises:
        SignatureFailure: it does not hold.
    """
    authorization: bytes | None = None
    for name, value in request.headers:
        if name == b"authorization":
            if authorization is not None:
                raise SignatureFailure(Reason.INCOMPLETE, "More than one Authorization header.")
            authorization = value
    query = request.raw_query
    presigned = b"X-Amz-Signature=" in query or b"X-Amz-Algorithm=" in query
    presigned_v2 = not presigned and b"AWSAccessKeyId=" in query
    if authorization is None:
        if presigned:
            return _verify_query(request, credentials, now_s, region, services, skew_s)
        if presigned_v2 and "s3" in services:
            return _verify_query_v2(request, credentials, now_s, region)
        raise SignatureFailure(Reason.MISSING, "Missing Authentication Token")
    if presigned or presigned_v2:
        raise SignatureFailure(
            Reason.INCOMPLETE,
            "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query"
            " string parameter or the Authorization header should be specified",
        )
    return _verify_header(request, authorization, credentials, now_s, region, services, skew_s)


def _verify_header(
    request: SignedRequest,
    authorization: bytes,
    credentials: Mapping[str, str],
    now_s: float,
    region: str,
    services: Collection[str],
    skew_s: float,
) -> Verified:
    """Check SigV4 in the Authorization header."""
    head, separator, signature_bytes = authorization.rpartition(b"Signature=")
    if not separator:
        raise _incomplete(authorization)
    claim = _parse_authorization(head)
    values, stated_hash = _collect(request.headers, claim.signed_set)
    amz_date = values.get(b"x-amz-date", b"").decode("latin-1")
    if b"host" not in values or not amz_date:
        raise SignatureFailure(
            Reason.INCOMPLETE, "'Host' and 'X-Amz-Date' must be 'SignedHeader's in the AWS Authorization."
        )
    secret = _secret_of(claim, credentials)
    _check_scope(claim, amz_date, region, services)
    at_s = _epoch_of(amz_date)
    if not -skew_s <= now_s - at_s <= skew_s:
        raise _skewed(amz_date, now_s)
    payload = _payload_claim(stated_hash, request.body_sha256, claim.service)
    signing_key = _signing_key(secret, claim.date, claim.region, claim.service)
    signature = signature_bytes.decode("latin-1")
    canonical = _canonical(request, claim, values, canonical_query(request.raw_query), payload)
    _compare(canonical, amz_date, claim.scope, signing_key, signature)
    return Verified(
        claim.access_key_id,
        claim.service,
        claim.region,
        signature,
        payload,
        signing_key,
        claim.scope,
        amz_date,
    )


def _verify_query(
    request: SignedRequest,
    credentials: Mapping[str, str],
    now_s: float,
    region: str,
    services: Collection[str],
    skew_s: float,
) -> Verified:
    """Check SigV4 in the query (presigned URLs)."""
    parameters = query_parameters(request.raw_query, b"X-Amz-")
    try:
        algorithm = parameters[b"X-Amz-Algorithm"]
        credential = parameters[b"X-Amz-Credential"]
        amz_date = parameters[b"X-Amz-Date"].decode("latin-1")
        expires = parameters[b"X-Amz-Expires"]
        signed = parameters[b"X-Amz-SignedHeaders"]
        signature = parameters[b"X-Amz-Signature"].decode("latin-1")
    except KeyError as missing:
        raise SignatureFailure(
            Reason.INCOMPLETE,
            f"Query-string authentication requires the {missing.args[0].decode()} parameter.",
        ) from None
    claim = _parse_claim(algorithm, credential, signed)
    if not (expires.isdigit() and len(expires) <= 6 and int(expires) <= MAX_PRESIGNED_S):
        raise SignatureFailure(Reason.INCOMPLETE, "X-Amz-Expires must be between 0 and 604800 seconds.")
    values, stated_hash = _collect(request.headers, claim.signed_set)
    if b"host" not in values:
        raise SignatureFailure(Reason.INCOMPLETE, "'Host' must be one of X-Amz-SignedHeaders.")
    secret = _secret_of(claim, credentials)
    _check_scope(claim, amz_date, region, services)
    at_s = _epoch_of(amz_date)
    if now_s < at_s - skew_s:
        raise SignatureFailure(Reason.EXPIRED, "Request is not valid yet")
    if now_s > at_s + int(expires):
        raise SignatureFailure(Reason.EXPIRED, "Request has expired")
    stated = stated_hash or parameters.get(b"X-Amz-Content-Sha256")
    if stated is None and claim.service == "s3":
        stated = UNSIGNED_PAYLOAD.encode()
    payload = _payload_claim(stated, request.body_sha256, claim.service)
    signing_key = _signing_key(secret, claim.date, claim.region, claim.service)
    query = canonical_query(request.raw_query, without=b"X-Amz-Signature")
    canonical = _canonical(request, claim, values, query, payload)
    _compare(canonical, amz_date, claim.scope, signing_key, signature)
    return Verified(
        claim.access_key_id,
        claim.service,
        claim.region,
        signature,
        payload,
        signing_key,
        claim.scope,
        amz_date,
    )


def _verify_query_v2(
    request: SignedRequest, credentials: Mapping[str, str], now_s: float, region: str
) -> Verified:
    """Check S3's SigV2 query form, which boto3's ``generate_presigned_url`` sends by default."""
    parameters = query_parameters(request.raw_query, b"")
    try:
        access_key_id = parameters[b"AWSAccessKeyId"].decode("latin-1")
        signature = parameters[b"Signature"]
        expires = parameters[b"Expires"]
    except KeyError:
        raise SignatureFailure(
            Reason.INCOMPLETE,
            "Query-string authentication requires the Signature, Expires and AWSAccessKeyId parameters",
        ) from None
    secret = credentials.get(access_key_id)
    if secret is None:
        raise _unknown_key("s3")
    if not (expires.isdigit() and len(expires) <= 12):
        raise SignatureFailure(Reason.INCOMPLETE, "Expires must be Unix seconds.")
    # A presigner moves headers into the query; a header that is sent as well must say the same.
    fields: dict[bytes, bytes] = {
        name: value
        for name, value in parameters.items()
        if name.startswith(b"x-amz-") or name in (b"content-md5", b"content-type")
    }
    sent: dict[bytes, bytes] = {}
    for name, value in request.headers:
        if name.startswith(b"x-amz-") or name in (b"content-md5", b"content-type"):
            value = value.strip()
            sent[name] = sent[name] + b"," + value if name in sent else value
    fields.update(sent)
    lines = [
        request.method.upper().encode(),
        fields.pop(b"content-md5", b""),
        fields.pop(b"content-type", b""),
        expires,
        *(name + b":" + fields[name] for name in sorted(fields)),
        request.raw_path + sub_resources(request.raw_query),
    ]
    expected = base64.b64encode(hmac.digest(secret.encode(), b"\n".join(lines), "sha1"))
    if not hmac.compare_digest(expected, signature):
        raise _mismatch()
    if now_s > int(expires):
        raise SignatureFailure(Reason.EXPIRED, "Request has expired")
    return Verified(access_key_id, "s3", region, signature.decode(), UNSIGNED_PAYLOAD, b"", "", "")


def chunk_signature(verified: Verified, previous: str, chunk_sha256: str) -> str:
    """Sign one chunk of a ``STREAMING-AWS4-HMAC-SHA256-PAYLOAD`` body.

    Args:
        previous: Hex signature of the chunk before; of the request for the first.
        chunk_sha256: Hex digest of the chunk's data.
    """
    text = "\n".join(
        ("AWS4-HMAC-SHA256-PAYLOAD", verified.amz_date, verified.scope, previous, EMPTY_SHA256, chunk_sha256)
    )
    return hmac.digest(verified.signing_key, text.encode(), "sha256").hex()


def trailer_signature(verified: Verified, previous: str, trailer: bytes) -> str:
    """Sign the trailer of a ``...-TRAILER`` body.

    Args:
        previous: Hex signature of the last (empty) chunk.
        trailer: Each header as ``name:value`` and a newline, in order.
    """
    digest = hashlib.sha256(trailer).hexdigest()
    text = "\n".join(("AWS4-HMAC-SHA256-TRAILER", verified.amz_date, verified.scope, previous, digest))
    return hmac.digest(verified.signing_key, text.encode(), "sha256").hex()


# --- the claim -------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _parse_authorization(head: bytes) -> _Claim:
    """Parse what precedes ``Signature=``; clients repeat it all day, so it is cached."""
    algorithm, _, rest = head.partition(b" ")
    fields: dict[bytes, bytes] = {}
    for part in rest.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name in fields:
            raise _incomplete(head)
        if name:
            fields[name] = value
    if fields.keys() != {b"Credential", b"SignedHeaders"}:
        raise _incomplete(head)
    return _parse_claim(algorithm, fields[b"Credential"], fields[b"SignedHeaders"])


@lru_cache(maxsize=1024)
def _parse_claim(algorithm: bytes, credential: bytes, signed_headers: bytes) -> _Claim:
    """Parse a credential and its list of signed headers."""
    if algorithm != ALGORITHM:
        raise SignatureFailure(
            Reason.INCOMPLETE,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )
    parts = credential.decode("latin-1").rsplit("/", 4)
    if len(parts) != 5 or not all(parts) or not credential.isascii():
        raise SignatureFailure(
            Reason.INCOMPLETE,
            "Credential must have exactly 5 slash-delimited elements, e.g."
            " keyid/date/region/service/aws4_request",
        )
    access_key_id, date, region, service, terminator = parts
    if terminator != "aws4_request":
        raise SignatureFailure(
            Reason.SCOPE, "Credential should be scoped with a valid terminator: 'aws4_request'."
        )
    names = tuple(signed_headers.split(b";"))
    if list(names) != sorted(set(names)) or signed_headers.lower() != signed_headers or not names[0]:
        raise SignatureFailure(Reason.INCOMPLETE, "SignedHeaders must be lower-case, sorted and distinct.")
    scope = f"{date}/{region}/{service}/{terminator}"
    return _Claim(access_key_id, date, region, service, scope, signed_headers, names, frozenset(names))


def _collect(
    headers: Sequence[tuple[bytes, bytes]], signed: frozenset[bytes]
) -> tuple[dict[bytes, bytes], bytes | None]:
    """Gather the signed headers' canonical values, and the stated payload hash.

    Raises:
        SignatureFailure: a header that is listed is absent, or an ``x-amz-*`` header is not listed.
    """
    values: dict[bytes, bytes] = {}
    stated: bytes | None = None
    for name, value in headers:
        if name in signed:
            trimmed = b" ".join(value.split())
            values[name] = values[name] + b"," + trimmed if name in values else trimmed
        if name.startswith(_MUST_BE_SIGNED):
            if name == b"x-amz-content-sha256":
                if stated is not None:
                    raise SignatureFailure(Reason.INCOMPLETE, "More than one x-amz-content-sha256 header.")
                # Its value is part of the canonical request itself, so it need not be listed.
                stated = value.strip()
            elif name not in signed:
                raise SignatureFailure(
                    Reason.UNSIGNED_HEADER,
                    "There were headers present in the request which were not signed: "
                    + name.decode("latin-1"),
                )
    if len(values) != len(signed):
        missing = ", ".join(sorted(name.decode("latin-1") for name in signed - values.keys()))
        raise SignatureFailure(
            Reason.MISMATCH, f"SignedHeaders names headers that the request does not have: {missing}"
        )
    return values, stated


def _secret_of(claim: _Claim, credentials: Mapping[str, str]) -> str:
    """Look the signer's secret up."""
    secret = credentials.get(claim.access_key_id)
    if secret is None:
        raise _unknown_key(claim.service)
    return secret


def _check_scope(claim: _Claim, amz_date: str, region: str, services: Collection[str]) -> None:
    """Hold the credential's scope to the request's date, the region and the services."""
    if claim.region != region:
        raise SignatureFailure(
            Reason.SCOPE,
            f"Credential should be scoped to a valid region, not '{claim.region}'; this server is '{region}'",
        )
    if claim.service not in services:
        wanted = " or ".join(f"'{service}'" for service in sorted(services))
        raise SignatureFailure(
            Reason.SCOPE, f"Credential should be scoped to correct service: {wanted}, not '{claim.service}'."
        )
    if amz_date[:8] != claim.date:
        raise SignatureFailure(
            Reason.SCOPE,
            f"Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date:"
            f" '{claim.date}' != '{amz_date[:8]}'.",
        )


def _payload_claim(stated: bytes | None, body_sha256: str | None, service: str) -> str:
    """Choose the payload hash of the canonical request, held to the body where that was read."""
    if stated is None:
        if body_sha256 is None:
            raise SignatureFailure(
                Reason.INCOMPLETE, "Missing required header for this request: x-amz-content-sha256"
            )
        return body_sha256
    text = stated.decode("latin-1")
    if _HEX64.fullmatch(text):
        if body_sha256 is not None and text != body_sha256:
            raise SignatureFailure(
                Reason.PAYLOAD, "The provided 'x-amz-content-sha256' header does not match what was computed."
            )
        return text
    if service != "s3":
        raise SignatureFailure(
            Reason.INCOMPLETE, "x-amz-content-sha256 must be the SHA-256 of the body; only S3 may differ."
        )
    if text == UNSIGNED_PAYLOAD or text.startswith("STREAMING-"):
        return text
    raise SignatureFailure(
        Reason.PAYLOAD,
        "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD or a valid sha256"
        " value.",
    )


# --- the canonical request -------------------------------------------------------------------------


def _canonical(
    request: SignedRequest, claim: _Claim, values: Mapping[bytes, bytes], query: bytes, payload: str
) -> bytes:
    """Build the canonical request."""
    path = request.raw_path if claim.service == "s3" else canonical_path(request.raw_path)
    lines = [request.method.upper().encode(), path, query]
    lines += [name + b":" + values[name] for name in claim.signed_names]
    lines += [b"", claim.signed_headers, payload.encode()]
    return b"\n".join(lines)


# --- the signature ---------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def _signing_key(secret: str, date: str, region: str, service: str) -> bytes:
    """Derive the day's key for one service."""
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


@lru_cache(maxsize=256)
def _epoch_of(amz_date: str) -> float:
    """Parse ``20261121T001136Z`` to Unix seconds."""
    match = _AMZ_DATE.fullmatch(amz_date)
    if match is not None:
        try:
            return datetime(*(int(part) for part in match.groups()), tzinfo=UTC).timestamp()  # type: ignore[misc, arg-type]
        except ValueError:
            pass  # no such day or hour: the refusal below
    raise SignatureFailure(
        Reason.INCOMPLETE, "Date must be in ISO-8601 'basic format': X-Amz-Date as YYYYMMDDTHHMMSSZ."
    )


def _compare(canonical: bytes, amz_date: str, scope: str, signing_key: bytes, signature: str) -> None:
    """Compare, in constant time, the signature of a canonical request."""
    text = f"AWS4-HMAC-SHA256\n{amz_date}\n{scope}\n{hashlib.sha256(canonical).hexdigest()}"
    expected = hmac.digest(signing_key, text.encode(), "sha256").hex()
    if not hmac.compare_digest(expected.encode(), signature.encode()):
        raise _mismatch()


def _mismatch() -> SignatureFailure:
    return SignatureFailure(
        Reason.MISMATCH,
        "The request signature we calculated does not match the signature you provided. Check your AWS"
        " Secret Access Key and signing method.",
    )


def _unknown_key(service: str) -> SignatureFailure:
    message = "The security token included in the request is invalid."
    if service == "s3":
        message = "The AWS Access Key Id you provided does not exist in our records."
    return SignatureFailure(Reason.UNKNOWN_KEY, message)


def _incomplete(authorization: bytes) -> SignatureFailure:
    if not authorization.startswith(ALGORITHM):
        return SignatureFailure(
            Reason.INCOMPLETE,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
        )
    return SignatureFailure(
        Reason.INCOMPLETE,
        "Authorization header requires 'Credential', 'SignedHeaders' and 'Signature' parameters, once each.",
    )


def _skewed(amz_date: str, now_s: float) -> SignatureFailure:
    now = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
    return SignatureFailure(
        Reason.SKEWED,
        "The difference between the request time and the current time is too large."
        f" RequestTime: {amz_date}, ServerTime: {now}. Set the client's clock.",
    )
