"""SigV4 for the load generator: signs as boto3 does for SageMaker's runtime.

Owns header signatures of plain POSTs.  Main function: :func:`authorization`.
Source: AWS General Reference, "Signature Version 4 signing process"; tests compare with botocore.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from urllib.parse import quote


@functools.lru_cache(maxsize=16)
def _key(secret: str, date: str, region: str, service: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def authorization(
    path: str,
    headers: dict[str, str],
    body: bytes,
    *,
    access_key_id: str,
    secret_access_key: str,
    region: str,
    service: str,
) -> str:
    """Return the Authorization header's value.

    Args:
        path: As sent, already percent-encoded; no query.
        headers: Every header to sign; Host and X-Amz-Date (``20260102T030405Z``) among them.
    """
    fields = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signed = ";".join(sorted(fields))
    # Every service but S3 encodes the path of the canonical request a second time.
    lines = ["POST", quote(path, safe="/-_.~"), ""]
    lines += [f"{name}:{fields[name]}" for name in sorted(fields)]
    lines += ["", signed, hashlib.sha256(body).hexdigest()]
    moment = fields["x-amz-date"]
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{digest}"
    signature = hmac.digest(_key(secret_access_key, moment[:8], region, service), text.encode(), "sha256")
    return (
        f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders={signed}, "
        f"Signature={signature.hex()}"
    )
