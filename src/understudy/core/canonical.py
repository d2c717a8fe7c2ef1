"""Canonical paths and queries of signed requests, from their raw, undecoded bytes.

Main functions: :func:`canonical_path`, :func:`canonical_query` (SigV4), :func:`sub_resources` (SigV2).
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import quote_from_bytes, unquote, unquote_to_bytes

from understudy.core.signatures import Reason, SignatureFailure

# SigV2's canonical resource takes these query parameters and no others.
_SUB_RESOURCES = frozenset(
    b"accelerate acl analytics cors defaultObjectAcl delete inventory lifecycle location logging metrics"
    b" notification object-lock partNumber policy replication requestPayment response-cache-control"
    b" response-content-disposition response-content-encoding response-content-language"
    b" response-content-type response-expires restore select select-type storageClass tagging torrent"
    b" uploadId uploads versionId versioning versions website".split()
)


@lru_cache(maxsize=1024)
def canonical_path(raw_path: bytes) -> bytes:
    """Normalise dot segments and encode the (already encoded) path once more, as all but S3 do."""
    path = raw_path
    if b"//" in path or b"/." in path:
        kept: list[bytes] = []
        for segment in path.split(b"/"):
            if segment == b"..":
                if kept:
                    kept.pop()
            elif segment not in (b"", b"."):
                kept.append(segment)
        tail = b"/" if kept and path.endswith(b"/") else b""
        path = b"/" + b"/".join(kept) + tail
    return quote_from_bytes(path, safe="/~-_.").encode() or b"/"


def canonical_query(raw_query: bytes, without: bytes | None = None) -> bytes:
    """Sort the parameters as they came; nothing is decoded, so nothing can mean two things."""
    if not raw_query:
        return b""
    pairs = []
    for pair in raw_query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name != without:
            pairs.append((name, value))
    pairs.sort()
    return b"&".join([name + b"=" + value for name, value in pairs])


def sub_resources(raw_query: bytes) -> bytes:
    """Render SigV2's canonical sub-resources."""
    kept = []
    for pair in raw_query.split(b"&"):
        name, separator, value = pair.partition(b"=")
        if name in _SUB_RESOURCES:
            kept.append((name, name + separator + unquote_to_bytes(value)))
    kept.sort(key=lambda item: item[0])
    return b"?" + b"&".join(text for _, text in kept) if kept else b""


def query_parameters(raw_query: bytes, prefix: bytes) -> dict[bytes, bytes]:
    """Decode the parameters whose names begin with a prefix; each may come once."""
    parameters: dict[bytes, bytes] = {}
    for pair in raw_query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name.startswith(prefix):
            if name in parameters:
                raise SignatureFailure(
                    Reason.INCOMPLETE, f"Query parameter {unquote(name.decode('latin-1'))} comes twice."
                )
            # Only form encoders write a space as "+"; botocore encodes SigV2's query that way.
            parameters[name] = unquote_to_bytes(value.replace(b"+", b"%20"))
    return parameters
