"""S3 through real clients: boto3 and the AWS CLI against the gateway over the store on disk."""

from __future__ import annotations

import hashlib
import http.client
import os
import random
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import uvicorn
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

from understudy.aws.gateway import Gateway
from understudy.core.names import Place
from understudy.operations.s3 import OPERATIONS
from understudy.operations.services import Services
from understudy.stores.objects import DiskObjects

pytestmark = pytest.mark.journey

ACCESS_KEY_ID = "AKIAUNDERSTUDYTEST00"
SECRET_ACCESS_KEY = "a-secret-of-the-tests"
BUCKET = "models"


class _Clock:
    def now_s(self) -> float:
        return time.time()

    def monotonic_s(self) -> float:
        return time.monotonic()


class _Entropy:
    def uniform(self) -> float:
        return 0.5

    def token(self, length_bytes: int) -> str:
        return os.urandom(length_bytes).hex()


@contextmanager
def _served(root: Path) -> Iterator[str]:
    store = DiskObjects(root, _Clock(), _Entropy())
    unused: Any = None
    services = Services(
        records=unused,
        buckets=store,
        objects=store,
        series=unused,
        logs=unused,
        stages=unused,
        evidence=unused,
        assignments=unused,
        outcomes=unused,
        clock=_Clock(),
        entropy=_Entropy(),
        place=Place(),
        endpoint_url="http://127.0.0.1",
        nudge=lambda: None,
    )
    gateway = Gateway(services, OPERATIONS, lambda: {ACCESS_KEY_ID: SECRET_ACCESS_KEY}, "sigv4")
    server = uvicorn.Server(uvicorn.Config(gateway, host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
        store.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with _served(tmp_path_factory.mktemp("s3") / "objects") as served:
        yield served


def _client(url: str, **config: Any) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=SECRET_ACCESS_KEY,
        config=Config(retries={"max_attempts": 0}, **config),
    )


@pytest.fixture
def s3(url: str) -> Iterator[Any]:
    client = _client(url)
    client.create_bucket(Bucket=BUCKET)
    yield client
    for upload in client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", []):
        client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for one in page.get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=one["Key"])
    client.delete_bucket(Bucket=BUCKET)
    client.close()


def _refused(code: str, status: int, call: Any, **arguments: Any) -> None:
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    response = caught.value.response
    assert response["Error"]["Code"] == code
    assert response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_put_get_head(s3: Any) -> None:
    s3.put_object(
        Bucket=BUCKET,
        Key="a b/ü+%.csv",
        Body=b"1,2;",
        ContentType="text/csv",
        Metadata={"Team": "ml"},
        ServerSideEncryption="aws:kms",
        ExpectedBucketOwner="123456789012",
    )
    got = s3.get_object(Bucket=BUCKET, Key="a b/ü+%.csv")
    assert got["Body"].read() == b"1,2;"
    assert got["ContentType"] == "text/csv"
    assert got["Metadata"] == {"team": "ml"}
    assert got["ServerSideEncryption"] == "aws:kms"
    assert got["ETag"] == f'"{hashlib.md5(b"1,2;").hexdigest()}"'
    head = s3.head_object(Bucket=BUCKET, Key="a b/ü+%.csv", ChecksumMode="ENABLED")
    assert head["ContentLength"] == 4
    assert head["ChecksumCRC32"]
    assert [one["Key"] for one in s3.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a b/ü+%.csv"]


def test_errors(s3: Any) -> None:
    _refused("NoSuchKey", 404, s3.get_object, Bucket=BUCKET, Key="gone")
    _refused("404", 404, s3.head_object, Bucket=BUCKET, Key="gone")
    _refused("NoSuchBucket", 404, s3.list_objects_v2, Bucket="no-such-bucket")
    _refused("404", 404, s3.head_bucket, Bucket="no-such-bucket")
    _refused("403", 403, s3.head_bucket, Bucket=BUCKET, ExpectedBucketOwner="210987654321")
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"0123456789")
    _refused("BucketNotEmpty", 409, s3.delete_bucket, Bucket=BUCKET)
    _refused("InvalidRange", 416, s3.get_object, Bucket=BUCKET, Key="k", Range="bytes=10-")
    _refused("NoSuchUpload", 404, s3.list_parts, Bucket=BUCKET, Key="k", UploadId="nonsense")
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=BUCKET, Key="gone")


def test_transfers_of_30_megabytes(s3: Any, tmp_path: Path) -> None:
    data = random.Random(4).randbytes(30 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(data)
    s3.upload_file(str(source), BUCKET, "large", ExtraArgs={"Metadata": {"a": "b"}})
    head = s3.head_object(Bucket=BUCKET, Key="large")
    assert head["ContentLength"] == len(data)
    assert head["ETag"].endswith('-4"')
    assert head["Metadata"] == {"a": "b"}
    s3.download_file(BUCKET, "large", str(target))
    assert target.read_bytes() == data
    s3.copy({"Bucket": BUCKET, "Key": "large"}, BUCKET, "copied", Config=TransferConfig(8 << 20))
    assert s3.get_object(Bucket=BUCKET, Key="copied")["Body"].read() == data
    piece = s3.get_object(Bucket=BUCKET, Key="large", Range="bytes=8388600-8388615")
    assert piece["Body"].read() == data[8388600:8388616]
    assert piece["ResponseMetadata"]["HTTPStatusCode"] == 206


def test_ranges_and_conditions(s3: Any) -> None:
    tag = s3.put_object(Bucket=BUCKET, Key="k", Body=b"0123456789")["ETag"]
    assert s3.get_object(Bucket=BUCKET, Key="k", Range="bytes=2-4")["Body"].read() == b"234"
    assert s3.get_object(Bucket=BUCKET, Key="k", Range="bytes=-3")["ContentRange"] == "bytes 7-9/10"
    assert s3.get_object(Bucket=BUCKET, Key="k", IfMatch=tag)["Body"].read() == b"0123456789"
    _refused("304", 304, s3.get_object, Bucket=BUCKET, Key="k", IfNoneMatch=tag)
    _refused("PreconditionFailed", 412, s3.get_object, Bucket=BUCKET, Key="k", IfMatch='"other"')
    _refused("PreconditionFailed", 412, s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", IfNoneMatch="*")
    s3.put_object(Bucket=BUCKET, Key="k", Body=b"new", IfMatch=tag)
    _refused("PreconditionFailed", 412, s3.put_object, Bucket=BUCKET, Key="k", Body=b"x", IfMatch=tag)


def test_copying_and_tags(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="a b+ü", Body=b"data", Metadata={"a": "1"}, Tagging="x=1")
    s3.copy_object(Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "a b+ü"})
    assert s3.get_object(Bucket=BUCKET, Key="copy")["Metadata"] == {"a": "1"}
    assert s3.get_object_tagging(Bucket=BUCKET, Key="copy")["TagSet"] == [{"Key": "x", "Value": "1"}]
    tags = {"TagSet": [{"Key": "y", "Value": "ü & <x>"}]}
    s3.put_object_tagging(Bucket=BUCKET, Key="copy", Tagging=tags)
    assert s3.get_object_tagging(Bucket=BUCKET, Key="copy")["TagSet"] == tags["TagSet"]
    assert s3.get_object(Bucket=BUCKET, Key="copy")["Body"].read() == b"data"


def test_listing_and_deleting_many(s3: Any) -> None:
    keys = sorted(f"{folder}/{number:03} +%ü" for folder in "ab" for number in range(30))
    for key in keys:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"")
    for operation in ("list_objects", "list_objects_v2"):
        pages = s3.get_paginator(operation).paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 7})
        assert [one["Key"] for page in pages for one in page["Contents"]] == keys
        pages = s3.get_paginator(operation).paginate(
            Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": 1}
        )
        assert [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", [])] == ["a/", "b/"]
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(answer["Deleted"]) == 60
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(url: str, s3: Any, version: str) -> None:
    client = _client(url, signature_version=version)
    target = {"Bucket": BUCKET, "Key": "pre signed+ü"}
    put_url = client.generate_presigned_url("put_object", Params=target)
    # Not by urllib: it adds a Content-Type, and SigV2 signs that.
    parsed = urllib.parse.urlsplit(put_url)
    connection = http.client.HTTPConnection(parsed.netloc)
    connection.request("PUT", f"{parsed.path}?{parsed.query}", b"by url")
    assert connection.getresponse().status == 200
    connection.close()
    shown = {**target, "ResponseContentType": "text/plain"}
    get_url = client.generate_presigned_url("get_object", Params=shown)
    with urllib.request.urlopen(get_url) as answer:
        assert answer.read() == b"by url"
        assert answer.headers["Content-Type"] == "text/plain"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(get_url.replace("Signature=", "Signature=AAAA"))
    assert caught.value.code == 403
    caught.value.close()
    client.close()


def test_a_restart_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    part = random.Random(5).randbytes(5 << 20)
    with _served(tmp_path / "objects") as url:
        client = _client(url)
        client.create_bucket(Bucket=BUCKET)
        target = {"Bucket": BUCKET, "Key": "k"}
        target["UploadId"] = client.create_multipart_upload(**target)["UploadId"]
        first = client.upload_part(**target, PartNumber=1, Body=part)["ETag"]
        client.close()
    with _served(tmp_path / "objects") as url:
        client = _client(url)
        second = client.upload_part(**target, PartNumber=2, Body=b"tail")["ETag"]
        parts = [{"PartNumber": 1, "ETag": first}, {"PartNumber": 2, "ETag": second}]
        client.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})
        assert client.get_object(Bucket=BUCKET, Key="k")["Body"].read() == part + b"tail"
        client.close()


def test_the_aws_cli(url: str, s3: Any, tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    program = Path(sys.executable).with_name("aws")

    def aws(*words: str) -> str:
        done = subprocess.run(
            [str(program), "--endpoint-url", url, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = tmp_path / "folder"
    (folder / "sub dir").mkdir(parents=True)
    (folder / "one.txt").write_text("one")
    (folder / "sub dir" / "two ü.bin").write_bytes(random.Random(6).randbytes(9 << 20))  # multipart
    aws("s3", "mb", "s3://cli-bucket")
    assert "cli-bucket" in aws("s3", "ls")
    aws("s3", "sync", str(folder), "s3://cli-bucket/synced")
    listed = aws("s3", "ls", "--recursive", "s3://cli-bucket/")
    assert "synced/one.txt" in listed and "synced/sub dir/two ü.bin" in listed
    assert "PRE synced/" in aws("s3", "ls", "s3://cli-bucket/")
    assert aws("s3", "sync", str(folder), "s3://cli-bucket/synced") == ""  # nothing left to do
    aws("s3", "cp", "s3://cli-bucket/synced/one.txt", "s3://cli-bucket/copied.txt")
    assert aws("s3", "cp", "s3://cli-bucket/copied.txt", "-") == "one"
    back = tmp_path / "back"
    aws("s3", "sync", "s3://cli-bucket/synced", str(back))
    for name in ("one.txt", "sub dir/two ü.bin"):
        assert (back / name).read_bytes() == (folder / name).read_bytes()
    aws("s3", "mv", "s3://cli-bucket/copied.txt", "s3://cli-bucket/moved.txt")
    assert "moved.txt" in aws("s3api", "list-objects-v2", "--bucket", "cli-bucket")
    aws("s3", "rm", "--recursive", "s3://cli-bucket/")
    aws("s3", "rb", "s3://cli-bucket")
    assert "cli-bucket" not in aws("s3", "ls")
