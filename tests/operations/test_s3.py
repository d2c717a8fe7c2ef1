"""S3's operations as functions from dictionary to dictionary, over the memory and the disk store.

Every answer's member names are held against botocore's output shapes.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import random
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.core.errors import ApiError
from understudy.core.names import Place
from understudy.operations.s3 import OPERATIONS, checksums
from understudy.operations.services import Services
from understudy.stores.memory_objects import MemoryObjects
from understudy.stores.objects import DiskObjects
from understudy.stores.objects_s3 import S3Objects

MODEL = botocore.session.get_session().get_service_model("s3")
PART = 5 << 20
Call = Callable[..., dict[str, Any]]


class _Clock:
    def __init__(self) -> None:
        self.at_s = 1_700_000_000.25

    def now_s(self) -> float:
        return self.at_s

    def monotonic_s(self) -> float:
        return self.at_s


class _Entropy:
    def __init__(self) -> None:
        self._numbers = itertools.count()

    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        return hashlib.sha256(str(next(self._numbers)).encode()).hexdigest()[: 2 * length_bytes]


def _services(store: Any, clock: _Clock, region: str = "us-east-1") -> Services:
    unused: Any = None
    return Services(
        records=unused,
        buckets=store,
        objects=store,
        series=unused,
        logs=unused,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=clock,
        entropy=_Entropy(),
        place=Place(region=region),
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )


def _check_members(shape: Any, value: Any) -> None:
    if shape.type_name == "structure":
        assert isinstance(value, dict)
        for name, inner in value.items():
            assert name in shape.members, f"{name} is no member of {shape.name}"
            assert (inner is not None and inner != {}) or name == "Metadata"
            _check_members(shape.members[name], inner)
    elif shape.type_name == "list":
        for inner in value:
            _check_members(shape.member, inner)
    elif shape.type_name in ("integer", "long"):
        assert isinstance(value, int)


def _caller(services: Services) -> Call:
    def call(operation: str, /, **request: Any) -> dict[str, Any]:
        answer = OPERATIONS["s3", operation](services, request)
        shape = MODEL.operation_model(operation).output_shape
        _check_members(shape, answer) if shape is not None else None
        if shape is None:
            assert answer == {}
        return answer

    return call


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: _Clock) -> Iterator[Any]:
    if request.param == "memory":
        yield MemoryObjects(clock)
    else:
        disk = DiskObjects(tmp_path / "objects", clock, _Entropy())
        yield disk
        disk.close()


@pytest.fixture
def call(store: Any, clock: _Clock) -> Call:
    found = _caller(_services(store, clock))
    found("CreateBucket", Bucket="box")
    return found


def refused(code: str, status: int, call: Call, operation: str, /, **request: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(operation, **request)
    assert (caught.value.code, caught.value.status) == (code, status)
    return caught.value


def body(answer: dict[str, Any]) -> bytes:
    return b"".join(answer["Body"])


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


# --- registry -----------------------------------------------------------------------------------


def test_every_operation_is_one_of_s3s() -> None:
    for service, name in OPERATIONS:
        assert service == "s3"
        assert name in MODEL.operation_names


# --- buckets ------------------------------------------------------------------------------------


def test_bucket_life(call: Call) -> None:
    assert call("CreateBucket", Bucket="another")["Location"] == "/another"
    assert call("CreateBucket", Bucket="another")["Location"] == "/another"  # one's own again, us-east-1
    answer = call("ListBuckets")
    assert [one["Name"] for one in answer["Buckets"]] == ["another", "box"]
    assert answer["Buckets"][0]["CreationDate"] == datetime.fromtimestamp(1_700_000_000.25, UTC)
    assert len(answer["Owner"]["ID"]) == 64
    assert call("HeadBucket", Bucket="box")["BucketRegion"] == "us-east-1"
    assert call("GetBucketLocation", Bucket="box") == {}
    assert call("GetBucketVersioning", Bucket="box") == {}
    call("PutObject", Bucket="another", Key="k", Body=[b"x"])
    refused("BucketNotEmpty", 409, call, "DeleteBucket", Bucket="another")
    call("DeleteObject", Bucket="another", Key="k")
    call("DeleteBucket", Bucket="another")
    for operation in ("HeadBucket", "DeleteBucket", "GetBucketLocation", "GetBucketVersioning"):
        refused("NoSuchBucket", 404, call, operation, Bucket="another")


def test_listing_buckets_by_page_and_prefix(call: Call) -> None:
    for number in range(5):
        call("CreateBucket", Bucket=f"many-{number}")
    assert len(call("ListBuckets", Prefix="many-")["Buckets"]) == 5
    names: list[str] = []
    token: dict[str, Any] = {}
    for _ in range(3):
        answer = call("ListBuckets", MaxBuckets=2, Prefix="many-", **token)
        names += [one["Name"] for one in answer["Buckets"]]
        token = {"ContinuationToken": answer.get("ContinuationToken", "")}
    assert names == [f"many-{number}" for number in range(5)]
    assert token == {"ContinuationToken": ""}
    assert call("ListBuckets", BucketRegion="eu-west-1")["Buckets"] == []


def test_other_regions(clock: _Clock) -> None:
    call = _caller(_services(MemoryObjects(clock), clock, "eu-west-1"))
    there = {"LocationConstraint": "eu-west-1"}
    call("CreateBucket", Bucket="box", CreateBucketConfiguration=there)
    refused("BucketAlreadyOwnedByYou", 409, call, "CreateBucket", Bucket="box")
    assert call("GetBucketLocation", Bucket="box") == there
    elsewhere = {"LocationConstraint": "us-west-2"}
    error = refused(
        "IllegalLocationConstraintException",
        400,
        call,
        "CreateBucket",
        Bucket="two",
        CreateBucketConfiguration=elsewhere,
    )
    assert "eu-west-1" in error.message


@pytest.mark.parametrize(
    "name",
    [
        "ab",
        "A" * 5,
        "a" * 64,
        ".multipart",
        "-abc",
        "abc-",
        "a..b",
        "192.168.0.1",
        "a_b",
        "a/b",
        "ünicode",
        "abc\n",
    ],
)
def test_bad_bucket_names(call: Call, name: str) -> None:
    for operation in ("CreateBucket", "HeadBucket", "ListObjectsV2"):
        refused("InvalidBucketName", 400, call, operation, Bucket=name)
    refused("InvalidBucketName", 400, call, "PutObject", Bucket=name, Key="k", Body=[])
    refused(
        "InvalidBucketName",
        400,
        call,
        "CopyObject",
        Bucket="box",
        Key="k",
        CopySource="a_b/k",
    )


def test_the_expected_owner(call: Call) -> None:
    call("HeadBucket", Bucket="box", ExpectedBucketOwner="123456789012")
    refused("AccessDenied", 403, call, "HeadBucket", Bucket="box", ExpectedBucketOwner="210987654321")
    refused("AccessDenied", 403, call, "GetObject", Bucket="box", Key="k", ExpectedBucketOwner="210987654321")


# --- put, get, head -----------------------------------------------------------------------------


def test_put_and_get(call: Call) -> None:
    answer = call(
        "PutObject",
        Bucket="box",
        Key="a/b.csv",
        Body=iter([b"1,2\n", b"3,4\n"]),
        ContentType="text/csv",
        CacheControl="no-cache",
        ContentDisposition="attachment",
        ContentEncoding="aws-chunked, gzip",
        ContentLanguage="de",
        Expires=datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        Metadata={"Team": "ML"},
        ServerSideEncryption="aws:kms",
        SSEKMSKeyId="alias/key",
        StorageClass="STANDARD_IA",
        Tagging="a=b&c=d%20e",
        ACL="private",
        ChecksumCRC32="AAAAAA==",
    )
    assert answer == {
        "ETag": etag(b"1,2\n3,4\n"),
        "ChecksumCRC32": "AAAAAA==",
        "ChecksumType": "FULL_OBJECT",
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "alias/key",
    }
    got = call("GetObject", Bucket="box", Key="a/b.csv", ChecksumMode="ENABLED")
    assert body(got) == b"1,2\n3,4\n"
    head = call("HeadObject", Bucket="box", Key="a/b.csv", ChecksumMode="ENABLED")
    got.pop("Body")
    assert got == head
    assert head == {
        "AcceptRanges": "bytes",
        "ContentLength": 8,
        "ETag": etag(b"1,2\n3,4\n"),
        "LastModified": datetime.fromtimestamp(1_700_000_000.25, UTC),
        "Metadata": {"team": "ML"},
        "ContentType": "text/csv",
        "CacheControl": "no-cache",
        "ContentDisposition": "attachment",
        "ContentEncoding": "gzip",
        "ContentLanguage": "de",
        "Expires": datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC),
        "ServerSideEncryption": "aws:kms",
        "SSEKMSKeyId": "alias/key",
        "StorageClass": "STANDARD_IA",
        "TagCount": 2,
        "ChecksumCRC32": "AAAAAA==",
        "ChecksumType": "FULL_OBJECT",
    }
    assert "ChecksumCRC32" not in call("HeadObject", Bucket="box", Key="a/b.csv")


def test_defaults(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k")
    head = call("HeadObject", Bucket="box", Key="k")
    assert head["ContentType"] == "binary/octet-stream"
    assert head["ContentLength"] == 0
    assert head["Metadata"] == {}
    call("PutObject", Bucket="box", Key="k", Body=b"plain bytes")
    assert body(call("GetObject", Bucket="box", Key="k")) == b"plain bytes"


def test_a_trailing_checksum_is_stored(call: Call, store: Any) -> None:
    request: dict[str, Any] = {"Bucket": "box", "Key": "k"}

    def stream() -> Iterator[bytes]:
        yield b"hello"
        request["ChecksumSHA256"] = "later"

    request["Body"] = stream()
    answer = OPERATIONS["s3", "PutObject"](_services(store, _Clock()), request)
    assert answer["ChecksumSHA256"] == "later"
    assert call("HeadObject", Bucket="box", Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == "later"


def test_what_is_missing(call: Call) -> None:
    for operation in ("GetObject", "HeadObject", "GetObjectTagging"):
        error = refused("NoSuchKey", 404, call, operation, Bucket="box", Key="gone")
        assert error.members == {"Key": "gone"}
        assert error.message == "The specified key does not exist."
        error = refused("NoSuchBucket", 404, call, operation, Bucket="gone", Key="gone")
        assert error.message == "The specified bucket does not exist"
    refused("NoSuchBucket", 404, call, "PutObject", Bucket="gone", Key="k", Body=[])
    refused("NoSuchBucket", 404, call, "ListObjects", Bucket="gone")
    refused("NoSuchBucket", 404, call, "ListObjectsV2", Bucket="gone", MaxKeys=0)
    refused("NoSuchBucket", 404, call, "DeleteObjects", Bucket="gone", Delete={"Objects": [{"Key": "k"}]})


def test_keys_that_are_refused(call: Call) -> None:
    error = refused("KeyTooLongError", 400, call, "PutObject", Bucket="box", Key="ü" * 513, Body=[])
    assert error.members == {"Size": "1026", "MaxSizeAllowed": "1024"}
    call("PutObject", Bucket="box", Key="ü" * 512, Body=[])
    refused("InvalidArgument", 400, call, "PutObject", Bucket="box", Key="\ud800", Body=[])


@pytest.mark.parametrize(
    "key", ["\0", "..", ".", "../../etc/passwd", "a//b", "/a", "a\nb", "%2e%2e/", "😀", " "]
)
def test_odd_keys_are_stored_faithfully(call: Call, key: str) -> None:
    call("PutObject", Bucket="box", Key=key, Body=[key.encode()])
    assert body(call("GetObject", Bucket="box", Key=key)) == key.encode()
    assert [one["Key"] for one in call("ListObjectsV2", Bucket="box")["Contents"]] == [key]


@pytest.mark.parametrize(
    "member", [{"SSECustomerKey": "x"}, {"ObjectLockMode": "GOVERNANCE"}, {"WriteOffsetBytes": 5}]
)
def test_what_must_not_be_ignored_is_refused(call: Call, member: dict[str, Any]) -> None:
    refused("NotImplemented", 501, call, "PutObject", Bucket="box", Key="k", Body=[], **member)


def test_versions(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"x"])
    assert body(call("GetObject", Bucket="box", Key="k", VersionId="null")) == b"x"
    refused("NoSuchVersion", 404, call, "GetObject", Bucket="box", Key="k", VersionId="3HL4kqtJlcpXrof3")


def test_large_metadata_is_refused(call: Call) -> None:
    refused(
        "MetadataTooLarge", 400, call, "PutObject", Bucket="box", Key="k", Body=[], Metadata={"a": "x" * 2048}
    )


def test_response_overrides(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"x"], ContentType="text/csv")
    got = call(
        "GetObject",
        Bucket="box",
        Key="k",
        ResponseContentType="text/plain",
        ResponseContentDisposition="attachment; filename=x",
        ResponseExpires=datetime(2031, 1, 1, tzinfo=UTC),
    )
    assert got["ContentType"] == "text/plain"
    assert got["ContentDisposition"] == "attachment; filename=x"
    assert got["Expires"] == datetime(2031, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "start", "length"),
    [
        ("bytes=0-3", 0, 4),
        ("bytes=3-3", 3, 1),
        ("bytes=4-", 4, 6),
        ("bytes=-3", 7, 3),
        ("bytes=-30", 0, 10),
        ("bytes=8-100", 8, 2),
        ("bytes = 0 - 1", 0, 2),
    ],
)
def test_ranges(call: Call, header: str, start: int, length: int) -> None:
    data = b"0123456789"
    call("PutObject", Bucket="box", Key="k", Body=[data], ChecksumCRC32="x")
    got = call("GetObject", Bucket="box", Key="k", Range=header, ChecksumMode="ENABLED")
    assert body(got) == data[start : start + length]
    assert got["ContentLength"] == length
    assert got["ContentRange"] == f"bytes {start}-{start + length - 1}/10"
    assert got["ETag"] == etag(data)
    assert "ChecksumCRC32" not in got
    assert call("HeadObject", Bucket="box", Key="k", Range=header)["ContentRange"] == got["ContentRange"]


@pytest.mark.parametrize("header", ["bytes=5-2", "items=0-1", "bytes=a-b", "bytes=-", "bytes=", ""])
def test_ranges_that_do_not_parse_are_ignored(call: Call, header: str) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"0123456789"])
    got = call("GetObject", Bucket="box", Key="k", Range=header)
    assert body(got) == b"0123456789"
    assert "ContentRange" not in got


def test_ranges_that_cannot_be_served(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"0123456789"])
    call("PutObject", Bucket="box", Key="empty", Body=[])
    for header in ("bytes=10-", "bytes=10-12", "bytes=-0"):
        error = refused("InvalidRange", 416, call, "GetObject", Bucket="box", Key="k", Range=header)
        assert error.members == {"RangeRequested": header, "ActualObjectSize": "10"}
    refused("InvalidRange", 416, call, "GetObject", Bucket="box", Key="empty", Range="bytes=0-")
    refused("NotImplemented", 501, call, "GetObject", Bucket="box", Key="k", Range="bytes=0-1,4-5")
    refused("InvalidRequest", 400, call, "GetObject", Bucket="box", Key="k", Range="bytes=0-1", PartNumber=1)


def test_part_numbers_of_a_plain_object(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"abc"])
    got = call("GetObject", Bucket="box", Key="k", PartNumber=1)
    assert body(got) == b"abc" and got["ContentRange"] == "bytes 0-2/3"
    refused("InvalidPartNumber", 416, call, "GetObject", Bucket="box", Key="k", PartNumber=2)


def test_conditional_reads(call: Call, clock: _Clock) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"x"])
    mine, other = etag(b"x"), etag(b"y")
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    before, after = at - timedelta(seconds=1), at + timedelta(seconds=1)
    for operation in ("GetObject", "HeadObject"):
        for fine in (
            {"IfMatch": mine},
            {"IfMatch": mine.strip('"')},
            {"IfMatch": "*"},
            {"IfMatch": f"{other}, {mine}"},
            {"IfNoneMatch": other},
            {"IfModifiedSince": before},
            {"IfUnmodifiedSince": at},
            {"IfUnmodifiedSince": after.timestamp()},
            {"IfMatch": mine, "IfUnmodifiedSince": before},
            {"IfNoneMatch": other, "IfModifiedSince": after},
        ):
            assert call(operation, Bucket="box", Key="k", **fine)["ContentLength"] == 1
        for failed in (
            {"IfMatch": other},
            {"IfUnmodifiedSince": before},
            {"IfMatch": other, "IfNoneMatch": mine},
        ):
            refused("PreconditionFailed", 412, call, operation, Bucket="box", Key="k", **failed)
        for same in ({"IfNoneMatch": mine}, {"IfNoneMatch": "*"}, {"IfModifiedSince": at}):
            error = refused("NotModified", 304, call, operation, Bucket="box", Key="k", **same)
            assert error.members["ETag"] == mine


def test_conditional_writes(call: Call) -> None:
    put = {"Bucket": "box", "Key": "k"}
    refused("NoSuchKey", 404, call, "PutObject", **put, Body=[b"x"], IfMatch=etag(b"x"))
    call("PutObject", **put, Body=[b"one"], IfNoneMatch="*")
    refused("PreconditionFailed", 412, call, "PutObject", **put, Body=[b"x"], IfNoneMatch="*")
    call("PutObject", **put, Body=[b"two"], IfMatch=etag(b"one"))
    refused("PreconditionFailed", 412, call, "PutObject", **put, Body=[b"x"], IfMatch=etag(b"one"))
    refused("NotImplemented", 501, call, "PutObject", **put, Body=[b"x"], IfNoneMatch=etag(b"one"))
    refused("PreconditionFailed", 412, call, "DeleteObject", **put, IfMatch=etag(b"one"))
    call("DeleteObject", **put, IfMatch=etag(b"two"))
    call("DeleteObject", **put)


def test_attributes(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"x"], ChecksumSHA1="abc")
    wanted = ["ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"]
    answer = call("GetObjectAttributes", Bucket="box", Key="k", ObjectAttributes=wanted)
    answer.pop("LastModified")
    assert answer == {
        "ETag": etag(b"x").strip('"'),
        "Checksum": {"ChecksumSHA1": "abc", "ChecksumType": "FULL_OBJECT"},
        "StorageClass": "STANDARD",
        "ObjectSize": 1,
    }


# --- tags ---------------------------------------------------------------------------------------


def test_tags(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"x"], Metadata={"a": "b"})
    assert call("GetObjectTagging", Bucket="box", Key="k") == {"TagSet": []}
    tags = [{"Key": "team", "Value": "a&b ü"}, {"Key": "empty", "Value": ""}]
    call("PutObjectTagging", Bucket="box", Key="k", Tagging={"TagSet": tags})
    assert call("GetObjectTagging", Bucket="box", Key="k") == {"TagSet": tags}
    head = call("HeadObject", Bucket="box", Key="k")
    assert (head["TagCount"], head["Metadata"], head["ETag"]) == (2, {"a": "b"}, etag(b"x"))
    assert body(call("GetObject", Bucket="box", Key="k")) == b"x"
    call("DeleteObjectTagging", Bucket="box", Key="k")
    assert call("GetObjectTagging", Bucket="box", Key="k") == {"TagSet": []}
    twice = {"TagSet": [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]}
    refused("InvalidTag", 400, call, "PutObjectTagging", Bucket="box", Key="k", Tagging=twice)
    many = {"TagSet": [{"Key": str(n), "Value": ""} for n in range(11)]}
    refused("BadRequest", 400, call, "PutObjectTagging", Bucket="box", Key="k", Tagging=many)
    refused("InvalidArgument", 400, call, "PutObject", Bucket="box", Key="k", Body=[], Tagging="no-value")


# --- copying ------------------------------------------------------------------------------------


def test_copying(call: Call, clock: _Clock) -> None:
    call(
        "PutObject",
        Bucket="box",
        Key="a b+ü",
        Body=[b"data"],
        ContentType="text/csv",
        Metadata={"a": "1"},
        Tagging="t=1",
        ChecksumCRC32="crc",
        StorageClass="GLACIER_IR",
    )
    clock.at_s += 10
    call("CreateBucket", Bucket="other")
    answer = call("CopyObject", Bucket="other", Key="copy", CopySource="/box/a%20b%2B%C3%BC")
    assert answer["CopyObjectResult"]["ETag"] == etag(b"data")
    assert answer["CopyObjectResult"]["LastModified"].timestamp() == clock.at_s
    got = call("GetObject", Bucket="other", Key="copy", ChecksumMode="ENABLED")
    assert body(got) == b"data"
    assert (got["ContentType"], got["Metadata"], got["TagCount"]) == ("text/csv", {"a": "1"}, 1)
    assert got["ChecksumCRC32"] == "crc"
    assert "StorageClass" not in got
    call(
        "CopyObject",
        Bucket="other",
        Key="copy",
        CopySource="box/a b+ü",
        MetadataDirective="REPLACE",
        TaggingDirective="REPLACE",
        Metadata={"b": "2"},
        ContentType="text/plain",
        ServerSideEncryption="aws:kms",
    )
    head = call("HeadObject", Bucket="other", Key="copy")
    assert (head["ContentType"], head["Metadata"]) == ("text/plain", {"b": "2"})
    assert "TagCount" not in head and head["ServerSideEncryption"] == "aws:kms"
    call("DeleteObject", Bucket="box", Key="a b+ü")
    assert body(call("GetObject", Bucket="other", Key="copy")) == b"data"


def test_copying_onto_itself(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"data"])
    same = {"Bucket": "box", "Key": "k", "CopySource": "box/k"}
    refused("InvalidRequest", 400, call, "CopyObject", **same)
    call("CopyObject", **same, MetadataDirective="REPLACE", Metadata={"a": "1"})
    got = call("GetObject", Bucket="box", Key="k")
    assert body(got) == b"data" and got["Metadata"] == {"a": "1"}


def test_copies_that_are_refused(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"data"])
    to = {"Bucket": "box", "Key": "copy"}
    refused("NoSuchKey", 404, call, "CopyObject", **to, CopySource="box/gone")
    refused("NoSuchBucket", 404, call, "CopyObject", **to, CopySource="gone/k")
    refused("NoSuchVersion", 404, call, "CopyObject", **to, CopySource="box/k?versionId=abc")
    call("CopyObject", **to, CopySource="box/k?versionId=null")
    for bad in ("box", "box/", "", "arn:aws:s3:us-east-1:123456789012:accesspoint/a/object/k"):
        refused("InvalidArgument", 400, call, "CopyObject", **to, CopySource=bad)
    for bad in (".multipart/uploads/box/1", "/.multipart/x"):
        refused("InvalidBucketName", 400, call, "CopyObject", **to, CopySource=bad)
    source = {"CopySource": "box/k"}
    at = datetime.fromtimestamp(1_700_000_000, UTC)
    for failed in (
        {"CopySourceIfMatch": etag(b"x")},
        {"CopySourceIfNoneMatch": etag(b"data")},
        {"CopySourceIfModifiedSince": at},
        {"CopySourceIfUnmodifiedSince": at - timedelta(seconds=1)},
        {"IfNoneMatch": "*"},
    ):
        refused("PreconditionFailed", 412, call, "CopyObject", **to, **source, **failed)
    call("CopyObject", **to, **source, CopySourceIfMatch=etag(b"data"))


# --- deleting many ------------------------------------------------------------------------------


def test_deleting_many(call: Call) -> None:
    for name in "abcd":
        call("PutObject", Bucket="box", Key=name, Body=[name.encode()])
    wanted = [
        {"Key": "a"},
        {"Key": "never-was"},
        {"Key": "b", "ETag": etag(b"b")},
        {"Key": "c", "ETag": etag(b"x")},
        {"Key": "d", "VersionId": "other"},
    ]
    answer = call("DeleteObjects", Bucket="box", Delete={"Objects": wanted})
    assert [one["Key"] for one in answer["Deleted"]] == ["a", "never-was", "b"]
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [
        ("c", "PreconditionFailed"),
        ("d", "NoSuchVersion"),
    ]
    assert [one["Key"] for one in call("ListObjects", Bucket="box")["Contents"]] == ["c", "d"]
    assert call("DeleteObjects", Bucket="box", Delete={"Objects": [{"Key": "c"}], "Quiet": True}) == {}
    for bad in ([], [{"Key": str(n)} for n in range(1001)]):
        refused("MalformedXML", 400, call, "DeleteObjects", Bucket="box", Delete={"Objects": bad})


# --- listing ------------------------------------------------------------------------------------


def test_an_empty_listing(call: Call) -> None:
    assert call("ListObjectsV2", Bucket="box") == {
        "IsTruncated": False,
        "Name": "box",
        "Prefix": "",
        "MaxKeys": 1000,
        "KeyCount": 0,
    }
    assert call("ListObjects", Bucket="box", Prefix="p") == {
        "IsTruncated": False,
        "Name": "box",
        "Prefix": "p",
        "Marker": "",
        "MaxKeys": 1000,
    }


def test_entries_and_owners(call: Call) -> None:
    call("PutObject", Bucket="box", Key="k", Body=[b"xy"], ChecksumCRC32="c", StorageClass="GLACIER_IR")
    (entry,) = call("ListObjectsV2", Bucket="box")["Contents"]
    assert entry == {
        "Key": "k",
        "LastModified": datetime.fromtimestamp(1_700_000_000.25, UTC),
        "ETag": etag(b"xy"),
        "Size": 2,
        "StorageClass": "GLACIER_IR",
        "ChecksumAlgorithm": ["CRC32"],
        "ChecksumType": "FULL_OBJECT",
    }
    assert "Owner" in call("ListObjectsV2", Bucket="box", FetchOwner=True)["Contents"][0]
    assert "Owner" in call("ListObjects", Bucket="box")["Contents"][0]


def test_delimiters(call: Call) -> None:
    for key in ("asdf", "boo/bar", "boo/baz/xyzzy", "cquux/bla", "cquux/thud", "zed"):
        call("PutObject", Bucket="box", Key=key, Body=[])
    answer = call("ListObjectsV2", Bucket="box", Delimiter="/")
    assert [one["Key"] for one in answer["Contents"]] == ["asdf", "zed"]
    assert [one["Prefix"] for one in answer["CommonPrefixes"]] == ["boo/", "cquux/"]
    assert answer["KeyCount"] == 4
    answer = call("ListObjects", Bucket="box", Delimiter="/", Prefix="boo/")
    assert [one["Key"] for one in answer["Contents"]] == ["boo/bar"]
    assert [one["Prefix"] for one in answer["CommonPrefixes"]] == ["boo/baz/"]
    steps = []
    marker = ""
    while True:
        answer = call("ListObjects", Bucket="box", Delimiter="/", MaxKeys=1, Marker=marker)
        steps.append(
            [one["Key"] for one in answer.get("Contents", [])]
            + [one["Prefix"] for one in answer.get("CommonPrefixes", [])]
        )
        if not answer["IsTruncated"]:
            assert "NextMarker" not in answer
            break
        marker = answer["NextMarker"]
    assert steps == [["asdf"], ["boo/"], ["cquux/"], ["zed"]]
    answer = call("ListObjects", Bucket="box", MaxKeys=2)
    assert answer["IsTruncated"] and "NextMarker" not in answer


def test_start_after_and_bad_arguments(call: Call) -> None:
    for key in "abc":
        call("PutObject", Bucket="box", Key=key, Body=[])
    answer = call("ListObjectsV2", Bucket="box", StartAfter="a")
    assert [one["Key"] for one in answer["Contents"]] == ["b", "c"]
    assert answer["StartAfter"] == "a"
    for token in ("nonsense", "", "e30=", "W10=", "ü"):
        refused("InvalidArgument", 400, call, "ListObjectsV2", Bucket="box", ContinuationToken=token)
    refused("InvalidArgument", 400, call, "ListObjectsV2", Bucket="box", MaxKeys=-1)
    refused("InvalidArgument", 400, call, "ListObjects", Bucket="box", EncodingType="base64")
    none = call("ListObjectsV2", Bucket="box", MaxKeys=0)
    assert (none["KeyCount"], none["IsTruncated"]) == (0, False)
    assert call("ListObjectsV2", Bucket="box", MaxKeys=5000)["MaxKeys"] == 1000


def test_url_encoding(call: Call) -> None:
    for key in ("a b/c", "a+b", "ü\n"):
        call("PutObject", Bucket="box", Key=key, Body=[])
    answer = call("ListObjectsV2", Bucket="box", EncodingType="url", Delimiter="/", StartAfter=" ")
    assert [one["Key"] for one in answer["Contents"]] == ["a%2Bb", "%C3%BC%0A"]
    assert answer["CommonPrefixes"] == [{"Prefix": "a%20b/"}]
    assert (answer["EncodingType"], answer["StartAfter"]) == ("url", "%20")


KEYS = st.lists(st.text(alphabet="ab/é😀\uffff", min_size=1, max_size=6), max_size=30, unique=True)


@given(
    keys=KEYS,
    prefix=st.text(alphabet="ab/é", max_size=2),
    delimiter=st.sampled_from(["", "/", "a", "b/"]),
    limit=st.integers(1, 7),
)
def test_pages_make_up_the_whole(keys: list[str], prefix: str, delimiter: str, limit: int) -> None:
    call = _caller(_services(MemoryObjects(_Clock()), _Clock()))
    call("CreateBucket", Bucket="box")
    for key in keys:
        call("PutObject", Bucket="box", Key=key, Body=[])
    expected: list[str] = []
    for key in sorted((key for key in keys if key.startswith(prefix)), key=str.encode):
        rest = key[len(prefix) :]
        name = prefix + rest[: rest.index(delimiter)] + delimiter if delimiter and delimiter in rest else key
        if name not in expected:
            expected.append(name)

    seen: list[str] = []
    request: dict[str, Any] = {}
    for _ in range(len(keys) + 1):
        answer = call(
            "ListObjectsV2", Bucket="box", Prefix=prefix, Delimiter=delimiter, MaxKeys=limit, **request
        )
        page = [one["Key"] for one in answer.get("Contents", [])]
        page += [one["Prefix"] for one in answer.get("CommonPrefixes", [])]
        assert len(page) == answer["KeyCount"] <= limit
        seen += sorted(page, key=str.encode)
        if not answer["IsTruncated"]:
            break
        assert len(page) == limit
        request = {"ContinuationToken": answer["NextContinuationToken"]}
    assert seen == expected


# --- multipart ----------------------------------------------------------------------------------


def _begin(call: Call, key: str = "k", **more: Any) -> dict[str, Any]:
    return {
        "Bucket": "box",
        "Key": key,
        "UploadId": call("CreateMultipartUpload", Bucket="box", Key=key, **more)["UploadId"],
    }


def test_a_multipart_upload(call: Call, store: Any) -> None:
    data = random.Random(1).randbytes(2 * PART + 7)
    pieces = [data[:PART], data[PART : 2 * PART], data[2 * PART :]]
    target = _begin(call, ContentType="text/csv", Metadata={"a": "b"}, ServerSideEncryption="aws:kms")
    named = []
    for number in (3, 1, 2):  # in any order
        answer = call("UploadPart", **target, PartNumber=number, Body=[pieces[number - 1]])
        assert answer["ETag"] == etag(pieces[number - 1])
        assert answer["ServerSideEncryption"] == "aws:kms"
        named.append({"PartNumber": number, "ETag": answer["ETag"]})
    named.sort(key=lambda one: one["PartNumber"])
    assert "Contents" not in call("ListObjectsV2", Bucket="box")
    assert len(call("ListBuckets")["Buckets"]) == 1
    refused("NoSuchKey", 404, call, "GetObject", Bucket="box", Key="k")
    parts = call("ListParts", **target)
    assert [(one["PartNumber"], one["Size"]) for one in parts["Parts"]] == [(1, PART), (2, PART), (3, 7)]
    assert not parts["IsTruncated"]
    page = call("ListParts", **target, MaxParts=2, PartNumberMarker=1)
    assert [one["PartNumber"] for one in page["Parts"]] == [2, 3]
    page = call("ListParts", **target, MaxParts=1)
    assert page["IsTruncated"] and page["NextPartNumberMarker"] == 1

    done = call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": named})
    md5s = b"".join(hashlib.md5(piece).digest() for piece in pieces)
    assert done["ETag"] == f'"{hashlib.md5(md5s).hexdigest()}-3"'
    assert done["Location"] == "http://127.0.0.1:8080/box/k"
    got = call("GetObject", Bucket="box", Key="k")
    assert body(got) == data
    assert (got["ContentType"], got["Metadata"], got["ETag"]) == ("text/csv", {"a": "b"}, done["ETag"])
    assert (
        body(call("GetObject", Bucket="box", Key="k", Range=f"bytes={PART - 3}-{PART + 2}"))
        == (data[PART - 3 : PART + 3])
    )
    second = call("GetObject", Bucket="box", Key="k", PartNumber=2)
    assert body(second) == pieces[1]
    assert second["PartsCount"] == 3
    assert second["ContentRange"] == f"bytes {PART}-{2 * PART - 1}/{len(data)}"
    attributes = call("GetObjectAttributes", Bucket="box", Key="k", ObjectAttributes=["ObjectParts"])
    assert attributes["ObjectParts"] == {"TotalPartsCount": 3}

    # A client whose answer got lost asks again, and hears the same.
    again = call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": named})
    assert again["ETag"] == done["ETag"]
    refused("NoSuchUpload", 404, call, "UploadPart", **target, PartNumber=4, Body=[b"x"])
    refused("NoSuchUpload", 404, call, "AbortMultipartUpload", **target)
    assert store.list(".multipart") == []
    copied = call("CopyObject", Bucket="box", Key="copy", CopySource="box/k")
    assert copied["CopyObjectResult"]["ETag"] == etag(data)


def test_completions_that_are_refused(call: Call) -> None:
    target = _begin(call)
    small = call("UploadPart", **target, PartNumber=1, Body=[b"small"])["ETag"]
    call("UploadPart", **target, PartNumber=2, Body=[b"last"])
    one, two = {"PartNumber": 1, "ETag": small}, {"PartNumber": 2, "ETag": etag(b"last")}

    def complete(code: str, parts: list[dict[str, Any]], **more: Any) -> ApiError:
        return refused(
            code, 400, call, "CompleteMultipartUpload", **target, MultipartUpload={"Parts": parts}, **more
        )

    error = complete("EntityTooSmall", [one, two])
    assert error.members["ProposedSize"] == "5" and error.members["PartNumber"] == "1"
    complete("InvalidPartOrder", [two, one])
    complete("InvalidPartOrder", [one, one])
    complete("InvalidPart", [one, {"PartNumber": 3, "ETag": small}])
    complete("InvalidPart", [{"PartNumber": 1, "ETag": etag(b"other")}])
    complete("InvalidPart", [{"PartNumber": 1, "ETag": "nonsense"}])
    complete("MalformedXML", [])
    complete("MalformedXML", [{"PartNumber": 1}])
    complete("InvalidRequest", [one], MpuObjectSize=99)
    call("PutObject", Bucket="box", Key="k", Body=[b"there"])
    named = {"Parts": [two]}
    refused(
        "PreconditionFailed",
        412,
        call,
        "CompleteMultipartUpload",
        **target,
        MultipartUpload=named,
        IfNoneMatch="*",
    )
    assert len(call("ListParts", **target)["Parts"]) == 2  # nothing was lost by that
    call("CompleteMultipartUpload", **target, MultipartUpload=named, IfMatch=etag(b"there"))
    assert body(call("GetObject", Bucket="box", Key="k")) == b"last"


def test_uploads_that_are_not_there(call: Call) -> None:
    target = _begin(call)
    for wrong in ({"UploadId": "f" * 64}, {"UploadId": "../x"}, {"Key": "other"}):
        one = {**target, **wrong}
        refused("NoSuchUpload", 404, call, "UploadPart", **one, PartNumber=1, Body=[b""])
        refused("NoSuchUpload", 404, call, "ListParts", **one)
        refused("NoSuchUpload", 404, call, "AbortMultipartUpload", **one)
        named = {"Parts": [{"PartNumber": 1, "ETag": "x"}]}
        refused("NoSuchUpload", 404, call, "CompleteMultipartUpload", **one, MultipartUpload=named)
    refused("NoSuchBucket", 404, call, "ListParts", **{**target, "Bucket": "gone"})
    refused("NoSuchBucket", 404, call, "CreateMultipartUpload", Bucket="gone", Key="k")
    for number in (0, 10_001):
        refused("InvalidArgument", 400, call, "UploadPart", **target, PartNumber=number, Body=[b""])


def test_aborting(call: Call, store: Any) -> None:
    target = _begin(call)
    for number in range(1, 4):
        call("UploadPart", **target, PartNumber=number, Body=[b"x"])
    call("UploadPart", **target, PartNumber=1, Body=[b"replaced"])
    assert call("ListParts", **target)["Parts"][0]["Size"] == 8
    call("AbortMultipartUpload", **target)
    assert store.list(".multipart") == []


def test_a_part_that_arrives_behind_the_abort_leaves_nothing(call: Call, store: Any) -> None:
    target = _begin(call)

    def stream() -> Iterator[bytes]:
        yield b"x"
        call("AbortMultipartUpload", **target)

    refused("NoSuchUpload", 404, call, "UploadPart", **target, PartNumber=1, Body=stream())
    assert store.list(".multipart") == []


def test_deleting_a_bucket_forgets_its_uploads(call: Call, store: Any) -> None:
    target = _begin(call)
    call("UploadPart", **target, PartNumber=1, Body=[b"x"])
    call("DeleteBucket", Bucket="box")
    assert store.list(".multipart") == []


def test_listing_uploads(call: Call, clock: _Clock) -> None:
    begun = []
    for key in ("b", "a/1", "a/2", "a/2", "c d"):
        clock.at_s += 1
        begun.append((key, _begin(call, key)["UploadId"]))
    answer = call("ListMultipartUploads", Bucket="box")
    assert [(one["Key"], one["UploadId"]) for one in answer["Uploads"]] == [
        begun[1],
        begun[2],
        begun[3],
        begun[0],
        begun[4],
    ]
    seen: list[Any] = []
    request: dict[str, Any] = {}
    for _ in range(5):
        answer = call("ListMultipartUploads", Bucket="box", MaxUploads=2, **request)
        seen += [(one["Key"], one["UploadId"]) for one in answer["Uploads"]]
        if not answer["IsTruncated"]:
            break
        request = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}
    assert sorted(seen) == sorted(begun) and len(seen) == 5
    answer = call("ListMultipartUploads", Bucket="box", Delimiter="/", EncodingType="url")
    assert answer["CommonPrefixes"] == [{"Prefix": "a/"}]
    assert [one["Key"] for one in answer["Uploads"]] == ["b", "c%20d"]
    assert len(call("ListMultipartUploads", Bucket="box", Prefix="a/")["Uploads"]) == 3
    assert len(call("ListMultipartUploads", Bucket="box", KeyMarker="a/2")["Uploads"]) == 2


def test_parts_copied_from_objects(call: Call) -> None:
    data = random.Random(2).randbytes(PART + 100)
    call("PutObject", Bucket="box", Key="source", Body=[data])
    target = _begin(call)
    source = {"CopySource": "box/source"}
    first = call("UploadPartCopy", **target, **source, PartNumber=1)["CopyPartResult"]
    assert first["ETag"] == etag(data)
    second = call("UploadPartCopy", **target, **source, PartNumber=2, CopySourceRange="bytes=10-19")
    assert second["CopyPartResult"]["ETag"] == etag(data[10:20])
    for bad in (f"bytes=0-{len(data)}", "bytes=5-4", "bytes=5-", "0-5"):
        refused(
            "InvalidArgument",
            400,
            call,
            "UploadPartCopy",
            **target,
            **source,
            PartNumber=3,
            CopySourceRange=bad,
        )
    refused(
        "PreconditionFailed",
        412,
        call,
        "UploadPartCopy",
        **target,
        **source,
        PartNumber=3,
        CopySourceIfMatch="x",
    )
    named = [{"PartNumber": 1, "ETag": etag(data)}, {"PartNumber": 2, "ETag": etag(data[10:20])}]
    call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": named})
    call("DeleteObject", Bucket="box", Key="source")
    assert body(call("GetObject", Bucket="box", Key="k")) == data + data[10:20]


def _crc32(data: bytes) -> str:
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


@pytest.mark.parametrize("checksum_type", ["COMPOSITE", "FULL_OBJECT"])
def test_checksums_of_multipart_objects(call: Call, checksum_type: str) -> None:
    data = random.Random(3).randbytes(PART + 100)
    pieces = [data[:PART], data[PART:]]
    target = _begin(call, ChecksumAlgorithm="CRC32", ChecksumType=checksum_type)
    named = []
    for number, piece in enumerate(pieces, 1):
        part = call("UploadPart", **target, PartNumber=number, Body=[piece], ChecksumCRC32=_crc32(piece))
        assert part["ChecksumCRC32"] == _crc32(piece)
        named.append({"PartNumber": number, "ETag": part["ETag"], "ChecksumCRC32": _crc32(piece)})
    assert call("ListParts", **target)["ChecksumType"] == checksum_type
    bad = [named[0], {**named[1], "ChecksumCRC32": "AAAAAA=="}]
    refused("InvalidPart", 400, call, "CompleteMultipartUpload", **target, MultipartUpload={"Parts": bad})
    request = {**target, "MultipartUpload": {"Parts": named}}
    refused("BadDigest", 400, call, "CompleteMultipartUpload", **request, ChecksumCRC32="AAAAAA==")
    done = call("CompleteMultipartUpload", **request)
    if checksum_type == "FULL_OBJECT":
        expected = _crc32(data)
    else:
        parts = b"".join(zlib.crc32(piece).to_bytes(4, "big") for piece in pieces)
        expected = f"{_crc32(parts)}-2"
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (expected, checksum_type)
    head = call("HeadObject", Bucket="box", Key="k", ChecksumMode="ENABLED")
    assert (head["ChecksumCRC32"], head["ChecksumType"]) == (expected, checksum_type)
    call("CopyObject", Bucket="box", Key="copy", CopySource="box/k")
    copied = call("HeadObject", Bucket="box", Key="copy", ChecksumMode="ENABLED")
    assert copied.get("ChecksumCRC32") == (expected if checksum_type == "FULL_OBJECT" else None)


@pytest.mark.parametrize(
    ("algorithm", "check"), [("CRC32", 0xCBF43926), ("CRC32C", 0xE3069283), ("CRC64NVME", 0xAE8B14860A799888)]
)
def test_crcs_have_their_catalogued_check_values(algorithm: str, check: int) -> None:
    assert checksums.crc(algorithm, b"123456789") == check


@given(
    pieces=st.lists(st.binary(max_size=200), min_size=1, max_size=6),
    algorithm=st.sampled_from(["CRC32", "CRC32C", "CRC64NVME"]),
)
def test_crcs_combine(pieces: list[bytes], algorithm: str) -> None:
    width = 8 if algorithm == "CRC64NVME" else 4

    def rendered(data: bytes) -> str:
        return base64.b64encode(checksums.crc(algorithm, data).to_bytes(width, "big")).decode()

    parts = [(rendered(piece), len(piece)) for piece in pieces]
    assert checksums.whole(algorithm, parts) == rendered(b"".join(pieces))


def test_hashes_make_composites_only() -> None:
    part = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    value = base64.b64encode(hashlib.sha256(hashlib.sha256(b"x").digest() * 2).digest()).decode()
    assert checksums.composite("SHA256", [part, part]) == f"{value}-2"
    assert checksums.whole("SHA256", [(part, 1)]) is None
    assert checksums.composite("XXHASH64", [part]) is None


# --- over a foreign object store ----------------------------------------------------------------


def test_a_whole_life_over_a_foreign_store(clock: _Clock, foreign_s3: str) -> None:
    """The face works the same where the objects live in another S3; that one's ETags and clock count."""
    store = S3Objects(endpoint_url=foreign_s3, access_key_id="test", secret_access_key="test")
    call = _caller(_services(store, clock))
    call("CreateBucket", Bucket="foreign-box")
    put = call(
        "PutObject", Bucket="foreign-box", Key="a/k ü", Body=[b"data"], Metadata={"a": "ü"}, Tagging="x=1"
    )
    assert put["ETag"] == etag(b"data")
    got = call("GetObject", Bucket="foreign-box", Key="a/k ü", Range="bytes=1-2")
    assert body(got) == b"at" and got["Metadata"] == {"a": "ü"} and got["TagCount"] == 1
    call("CopyObject", Bucket="foreign-box", Key="copy", CopySource="foreign-box/a/k%20%C3%BC")
    target = {"Bucket": "foreign-box", "Key": "whole"}
    target["UploadId"] = call("CreateMultipartUpload", **target, ContentType="text/csv")["UploadId"]
    data = random.Random(7).randbytes(PART)
    named = []
    for number, piece in enumerate((data, b"tail"), 1):
        part = call("UploadPart", **target, PartNumber=number, Body=[piece])
        named.append({"PartNumber": number, "ETag": part["ETag"]})
    assert [one["Key"] for one in call("ListMultipartUploads", Bucket="foreign-box")["Uploads"]] == ["whole"]
    assert [one["Name"] for one in call("ListBuckets")["Buckets"]] == ["foreign-box"]
    call("CompleteMultipartUpload", **target, MultipartUpload={"Parts": named})
    got = call("GetObject", Bucket="foreign-box", Key="whole")
    assert body(got) == data + b"tail" and got["ContentType"] == "text/csv"
    assert body(call("GetObject", Bucket="foreign-box", Key="whole", PartNumber=2)) == b"tail"
    listed = call("ListObjectsV2", Bucket="foreign-box", Delimiter="/")
    assert [one["Key"] for one in listed["Contents"]] == ["copy", "whole"]
    assert listed["CommonPrefixes"] == [{"Prefix": "a/"}]
    assert "Uploads" not in call("ListMultipartUploads", Bucket="foreign-box")
    assert store.list(".multipart") == []
    refused("NoSuchKey", 404, call, "HeadObject", Bucket="foreign-box", Key="gone")
    wanted = [{"Key": "a/k ü"}, {"Key": "copy"}, {"Key": "whole"}]
    call("DeleteObjects", Bucket="foreign-box", Delete={"Objects": wanted})
    call("DeleteBucket", Bucket="foreign-box")


def test_a_foreign_store_that_is_away() -> None:
    store = S3Objects(endpoint_url="http://127.0.0.1:9", access_key_id="test", secret_access_key="test")
    call = _caller(_services(store, _Clock()))
    error = refused("ServiceUnavailable", 503, call, "GetObject", Bucket="box", Key="k")
    assert "127.0.0.1:9" in error.message
