"""Tags of objects.

Differs from AWS: putting or deleting tags moves the object's LastModified.
Source: S3's API reference, PutObjectTagging.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from understudy.core.ports import Joined
from understudy.operations.s3.copying import until_settled
from understudy.operations.s3.facts import TAGGING_HEADER, check_tags, parse_tagging
from understudy.operations.services import Operation, Services


def get_object_tagging(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return an object's tags."""
    info = services.objects.head(request["Bucket"], request["Key"])
    tags = parse_tagging(info.headers.get(TAGGING_HEADER, ""))
    return {"TagSet": [{"Key": name, "Value": value} for name, value in tags.items()]}


def put_object_tagging(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Replace an object's tags."""
    pairs = [(one["Key"], one["Value"]) for one in request["Tagging"].get("TagSet", [])]
    check_tags(pairs)
    _replace(services, request["Bucket"], request["Key"], urlencode(pairs))
    return {}


def delete_object_tagging(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove an object's tags."""
    _replace(services, request["Bucket"], request["Key"], "")
    return {}


def _replace(services: Services, bucket: str, key: str, tagging: str) -> None:
    def attempt() -> None:
        info = services.objects.head(bucket, key)
        headers = {name: value for name, value in info.headers.items() if name != TAGGING_HEADER}
        if tagging:
            headers[TAGGING_HEADER] = tagging
        services.objects.put(
            bucket,
            key,
            Joined((info,)),
            headers=headers,
            metadata=info.metadata,
            checksums=info.checksums,
            etag=info.etag,
        )

    until_settled(attempt)


OPERATIONS: dict[str, Operation] = {
    "GetObjectTagging": get_object_tagging,
    "PutObjectTagging": put_object_tagging,
    "DeleteObjectTagging": delete_object_tagging,
}
