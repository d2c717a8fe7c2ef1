"""The values of signature checks: what is checked, what is found, and why it was refused.

Owns the spelling of each refusal in AWS's protocols (:meth:`SignatureFailure.wire`); the check itself is
:func:`understudy.core.signing.verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a signature was refused, whatever the protocol; :meth:`SignatureFailure.wire` spells it."""

    MISSING = "missing"
    INCOMPLETE = "incomplete"
    UNKNOWN_KEY = "unknown-key"
    MISMATCH = "mismatch"
    SKEWED = "skewed"
    SCOPE = "scope"
    EXPIRED = "expired"
    UNSIGNED_HEADER = "unsigned-header"
    PAYLOAD = "payload"


# Reason -> (code, status) per family of protocols: JSON and REST-JSON, query/XML, S3.
_WIRE: dict[Reason, dict[str, tuple[str, int]]] = {
    Reason.MISSING: {
        "json": ("MissingAuthenticationToken", 403),
        "query": ("MissingAuthenticationToken", 403),
        "s3": ("AccessDenied", 403),
    },
    Reason.INCOMPLETE: {
        "json": ("IncompleteSignature", 403),
        "query": ("IncompleteSignature", 400),
        "s3": ("AuthorizationHeaderMalformed", 400),
    },
    Reason.UNKNOWN_KEY: {
        "json": ("UnrecognizedClientException", 403),
        "query": ("InvalidClientTokenId", 403),
        "s3": ("InvalidAccessKeyId", 403),
    },
    Reason.MISMATCH: {
        "json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "s3": ("SignatureDoesNotMatch", 403),
    },
    Reason.SKEWED: dict.fromkeys(("json", "query", "s3"), ("RequestTimeTooSkewed", 403)),
    Reason.SCOPE: {
        "json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "s3": ("AuthorizationHeaderMalformed", 400),
    },
    Reason.EXPIRED: dict.fromkeys(("json", "query", "s3"), ("AccessDenied", 403)),
    Reason.UNSIGNED_HEADER: {
        "json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "s3": ("AccessDenied", 403),
    },
    Reason.PAYLOAD: {
        "json": ("InvalidSignatureException", 403),
        "query": ("SignatureDoesNotMatch", 403),
        "s3": ("XAmzContentSHA256Mismatch", 400),
    },
}


class SignatureFailure(Exception):
    """A signature that does not hold.

    Attributes:
        reason: Neutral reason.
        message: Text for the caller, with AWS's wording; never holds a secret or an expected signature.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message

    def wire(self, family: str) -> tuple[str, int]:
        """Spell the reason as (AWS's error code, HTTP status).

        Args:
            family: ``json`` (also REST-JSON), ``query`` or ``s3``.

        >>> SignatureFailure(Reason.MISMATCH, "").wire("json")
        ('InvalidSignatureException', 403)
        """
        return _WIRE[self.reason][family]


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """What a signature covers.

    Attributes:
        raw_path: As it came, percent-encoding untouched, no query.
        raw_query: What followed the first ``?``, or empty.
        headers: In order; names in lower case.
        body_sha256: Hex digest of the body, or None when it is still to be read (S3): then the caller
            must hold the body to ``Verified.payload_hash_claim``.
    """

    method: str
    raw_path: bytes
    raw_query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body_sha256: str | None


@dataclass(frozen=True, slots=True)
class Verified:
    """Who signed, and what is needed to go on (chunk signatures).

    Attributes:
        signature: Hex (SigV4): the seed of an aws-chunked body's chain of chunk signatures.
        payload_hash_claim: Hex digest, ``UNSIGNED-PAYLOAD`` or ``STREAMING-...``.
        signing_key: Derived key; empty for SigV2.
        scope: ``20261121/us-east-1/s3/aws4_request``; empty for SigV2.
        amz_date: ``20261121T001136Z``; empty for SigV2.
    """

    access_key_id: str
    service: str
    region: str
    signature: str
    payload_hash_claim: str
    signing_key: bytes
    scope: str
    amz_date: str
