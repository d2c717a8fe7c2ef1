"""Buckets: make, look at, list, remove.

Source: S3's API reference.
"""

from __future__ import annotations

from typing import Any

from understudy.core.errors import ApiError
from understudy.operations.s3.facts import owner_of, stamp
from understudy.operations.s3.guard import require_bucket
from understudy.operations.s3.multipart import forget_uploads
from understudy.operations.s3.tokens import parse_token, render_token
from understudy.operations.services import Operation, Services


def list_buckets(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Return the buckets by name."""
    prefix = request.get("Prefix", "")
    limit = request.get("MaxBuckets")
    token = request.get("ContinuationToken")
    after = parse_token(token) if token else ""
    found = [one for one in services.buckets.list_buckets() if one[0].startswith(prefix) and one[0] > after]
    region = request.get("BucketRegion")
    if region not in (None, services.place.region):
        found = []
    page = found if limit is None else found[:limit]
    answer: dict[str, Any] = {
        "Owner": owner_of(services),
        "Buckets": [{"Name": name, "CreationDate": stamp(at_s)} for name, at_s in page],
    }
    if limit is not None or "Prefix" in request:
        for one in answer["Buckets"]:
            one["BucketRegion"] = services.place.region
    if "Prefix" in request:
        answer["Prefix"] = prefix
    if len(page) < len(found) and page:
        answer["ContinuationToken"] = render_token(page[-1][0])
    return answer


def create_bucket(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Make a bucket.

    One's own again is no error in us-east-1, as on AWS.
    Differs from AWS: no constraint, or the server's own region as one, is taken whatever the region.
    """
    bucket, region = request["Bucket"], services.place.region
    wanted = request.get("CreateBucketConfiguration", {}).get("LocationConstraint")
    if wanted not in (None, "", region):
        raise ApiError(
            f"The {wanted} location constraint is incompatible for the region specific endpoint this request "
            f"was sent to: this server speaks for {region}.",
            code="IllegalLocationConstraintException",
            status=400,
        )
    if not services.buckets.create_bucket(bucket) and region != "us-east-1":
        raise ApiError(
            "Your previous request to create the named bucket succeeded and you already own it.",
            code="BucketAlreadyOwnedByYou",
            status=409,
            members={"BucketName": bucket},
        )
    return {"Location": f"/{bucket}", "BucketArn": f"arn:aws:s3:::{bucket}"}


def head_bucket(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Tell whether a bucket is there."""
    require_bucket(services, request["Bucket"])
    return {"BucketArn": f"arn:aws:s3:::{request['Bucket']}", "BucketRegion": services.place.region}


def delete_bucket(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Remove an empty bucket, and multipart uploads under way in it."""
    services.buckets.delete_bucket(request["Bucket"])
    forget_uploads(services, request["Bucket"])
    return {}


def get_bucket_location(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Name the region; us-east-1 has no name here, as on AWS."""
    require_bucket(services, request["Bucket"])
    region = services.place.region
    return {} if region == "us-east-1" else {"LocationConstraint": region}


def get_bucket_versioning(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Answer as for a bucket that was never versioned."""
    require_bucket(services, request["Bucket"])
    return {}


OPERATIONS: dict[str, Operation] = {
    "ListBuckets": list_buckets,
    "CreateBucket": create_bucket,
    "HeadBucket": head_bucket,
    "DeleteBucket": delete_bucket,
    "GetBucketLocation": get_bucket_location,
    "GetBucketVersioning": get_bucket_versioning,
}
