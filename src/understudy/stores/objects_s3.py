"""Objects in a foreign S3: AWS, MinIO, Ceph, Garage, SeaweedFS, by endpoint URL.

Owns nothing: it speaks the ports Buckets and Objects through botocore's client.  The service's own ETags
are what counts (an ``etag`` given to ``put`` is not kept), and ``list`` tells neither headers, metadata nor
checksums.  What S3 has no place for goes, as JSON, into one metadata entry.
Scratch buckets (names that begin with a dot) live in one real bucket, named at construction.
Main class: :class:`S3Objects`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from understudy.core.errors import ApiError, Conflict
from understudy.core.object_errors import no_such_bucket, no_such_key, precondition_failed
from understudy.core.ports import Joined, ObjectInfo

PIECE_BYTES = 1 << 20
# S3 takes 10,000 parts: enough for 156 GiB.  A body that fits in one part is put plainly.
PART_BYTES = 16 << 20
KEYS_PER_DELETE = 1000
NATIVE_HEADERS = {
    "content-type": "ContentType",
    "cache-control": "CacheControl",
    "content-disposition": "ContentDisposition",
    "content-encoding": "ContentEncoding",
    "content-language": "ContentLanguage",
}
# Metadata entry with everything else, as ASCII JSON: [headers, metadata, checksums].
FACTS_ENTRY = "understudy-facts"


class S3Objects:
    """Implements the ports Buckets and Objects; safe to call from many threads.

    Args:
        endpoint_url: Of the service, e.g. ``http://minio:9000``; None is AWS itself.
        scratch_bucket: Real bucket that holds what scratch buckets hold; made when first needed.
    """

    def __init__(
        self,
        *,
        endpoint_url: str | None,
        access_key_id: str,
        secret_access_key: str,
        session_token: str | None = None,
        region: str = "us-east-1",
        scratch_bucket: str = "understudy-scratch",
    ) -> None:
        self._region = region
        self._scratch_bucket = scratch_bucket
        self._client: Any = botocore.session.Session().create_client(
            "s3",
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=access_key_id,
            aws_secret_access_key=secret_access_key,
            aws_session_token=session_token,
            config=Config(
                s3={"addressing_style": "path"} if endpoint_url else None,
                # Not every server knows today's checksum trailers.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=32,
                # An endpoint that is away is told within seconds, not minutes.
                connect_timeout=5,
                retries={"mode": "standard", "total_max_attempts": 3},
            ),
        )

    # --- Buckets ---

    def create_bucket(self, bucket: str) -> bool:
        """Create it; False when it was there."""
        real = self._real(bucket)
        if self._has_bucket(real):
            return False
        place = {"LocationConstraint": self._region}
        arguments = {} if self._region == "us-east-1" else {"CreateBucketConfiguration": place}
        try:
            self._call("create_bucket", real, "", Bucket=real, **arguments)
        except ApiError as error:
            if error.code == "BucketAlreadyOwnedByYou":
                return False
            raise
        return True

    def delete_bucket(self, bucket: str) -> None:
        """Remove an empty bucket."""
        real = self._real(bucket)
        self._call("delete_bucket", bucket, "", Bucket=real)

    def list_buckets(self) -> list[tuple[str, float]]:
        """Return (name, created_at_s), sorted by name; scratch buckets are left out."""
        found = self._call("list_buckets", "", "")["Buckets"]
        return sorted(
            (one["Name"], one["CreationDate"].timestamp())
            for one in found
            if one["Name"] != self._scratch_bucket
        )

    # --- Objects ---

    def put(
        self,
        bucket: str,
        key: str,
        body: Iterable[bytes] | Joined,
        *,
        headers: Mapping[str, str] | None = None,
        metadata: Mapping[str, str] | None = None,
        checksums: Mapping[str, str] | None = None,
        etag: str | None = None,
        if_match: str | None = None,
        if_absent: bool = False,
    ) -> ObjectInfo:
        """Store an object whole: in one request when it fits in a part, else as a multipart upload."""
        target = {"Bucket": self._real(bucket), "Key": key}
        conditions: dict[str, Any] = {"IfMatch": f'"{if_match}"'} if if_match is not None else {}
        if if_absent:
            conditions["IfNoneMatch"] = "*"
        parts = _in_parts(self._joined(body) if isinstance(body, Joined) else body)
        first = next(parts)
        if len(first) < PART_BYTES:
            facts = _facts_members(headers, metadata, checksums)
            self._call("put_object", bucket, key, **target, **facts, **conditions, Body=first)
        else:
            facts = _facts_members(headers, metadata, checksums)
            upload = self._call("create_multipart_upload", bucket, key, **target, **facts)
            target["UploadId"] = upload["UploadId"]
            try:
                done = [self._upload_part(bucket, target, 1, first)]
                for number, part in enumerate(parts, 2):
                    if part:
                        done.append(self._upload_part(bucket, target, number, part))
                self._call(
                    "complete_multipart_upload",
                    bucket,
                    key,
                    **target,
                    **conditions,
                    MultipartUpload={"Parts": done},
                )
            except BaseException:
                with suppress(ApiError):  # what went wrong first is what counts
                    self._call("abort_multipart_upload", bucket, key, **target)
                raise
        if isinstance(body, Joined) and body.move:
            for source in body.parts:
                self.delete(source.bucket, source.key)
        return self.head(bucket, key)

    def head(self, bucket: str, key: str) -> ObjectInfo:
        """Return facts."""
        return _info(bucket, key, self._call("head_object", bucket, key, Bucket=self._real(bucket), Key=key))

    def read(self, bucket: str, key: str, start: int = 0, length: int | None = None) -> S3Reading:
        """Yield the bytes from ``start``, ``length`` of them at most."""
        target = {"Bucket": self._real(bucket), "Key": key}
        if start == 0 and length is None:
            answer = self._call("get_object", bucket, key, **target)
            return S3Reading(_info(bucket, key, answer), answer["Body"])
        while True:
            # An empty range can't be asked for, and a range answers neither the whole size nor old bytes.
            info = self.head(bucket, key)
            size_bytes = info.size_bytes
            end = size_bytes if length is None else min(size_bytes, start + length)
            if start >= end:
                return S3Reading(info, None)
            try:
                answer = self._call(
                    "get_object",
                    bucket,
                    key,
                    **target,
                    Range=f"bytes={start}-{end - 1}",
                    IfMatch=f'"{info.etag}"',
                )
            except ApiError as error:
                if error.code == "PreconditionFailed":
                    continue  # replaced in between
                raise
            return S3Reading(info, answer["Body"])

    def delete(self, bucket: str, *keys: str, if_match: str | None = None) -> None:
        """Remove objects; missing ones are no error.  Not one step over more than one key."""
        real = self._real(bucket)
        if if_match is not None:
            for key in keys:
                self._delete_if(bucket, key, if_match)
            return
        if len(keys) == 1:
            self._call("delete_object", bucket, keys[0], Bucket=real, Key=keys[0])
            return
        for start in range(0, len(keys), KEYS_PER_DELETE):
            some = [{"Key": key} for key in keys[start : start + KEYS_PER_DELETE]]
            answer = self._call(
                "delete_objects", bucket, "", Bucket=real, Delete={"Objects": some, "Quiet": True}
            )
            for error in answer.get("Errors", []):
                raise ApiError(
                    f"{error['Key']}: {error.get('Message', '')}", code=error.get("Code"), status=500
                )

    def list(self, bucket: str, prefix: str = "", after: str = "", limit: int = 1000) -> list[ObjectInfo]:
        """Return objects with ``key > after`` under the prefix, in UTF-8 byte order of their keys."""
        found: list[ObjectInfo] = []
        while len(found) < limit:
            wanted = min(1000, limit - len(found))
            answer = self._call(
                "list_objects_v2",
                bucket,
                "",
                Bucket=self._real(bucket),
                Prefix=prefix,
                StartAfter=after,
                MaxKeys=wanted,
            )
            found.extend(_listed(bucket, one) for one in answer.get("Contents", []))
            if not answer.get("IsTruncated"):
                break
            after = found[-1].key
        return found

    # --- calls ---

    def _real(self, bucket: str) -> str:
        return self._scratch_bucket if bucket.startswith(".") else bucket

    def _has_bucket(self, real: str) -> bool:
        try:
            self._client.head_bucket(Bucket=real)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise _told(error) from error
        except BotoCoreError as error:
            raise _unreachable(error) from error
        return True

    def _call(self, operation: str, bucket: str, key: str, **arguments: Any) -> dict[str, Any]:
        """Call the service; its errors become ours."""
        try:
            answer: dict[str, Any] = getattr(self._client, operation)(**arguments)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code")
            if code in ("NoSuchKey", "NoSuchBucket", "404"):
                # HEAD has no body to tell which of the two is missing.
                if code == "NoSuchBucket" or not self._has_bucket(self._real(bucket)):
                    raise no_such_bucket(bucket) from error
                raise no_such_key(key) from error
            if code in ("PreconditionFailed", "412"):
                condition = error.response["Error"].get("Condition", "If-Match")
                raise precondition_failed(condition) from error
            raise _told(error) from error
        except BotoCoreError as error:
            raise _unreachable(error) from error
        return answer

    def _upload_part(self, bucket: str, target: dict[str, str], number: int, part: bytes) -> dict[str, Any]:
        answer = self._call("upload_part", bucket, target["Key"], **target, PartNumber=number, Body=part)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _delete_if(self, bucket: str, key: str, if_match: str) -> None:
        """Conditional delete; services that don't know the condition get it checked just before."""
        try:
            info = self.head(bucket, key)
        except ApiError as error:
            if error.code == "NoSuchKey":
                return
            raise
        if info.etag != if_match:
            raise precondition_failed("If-Match")
        self._call("delete_object", bucket, key, Bucket=self._real(bucket), Key=key, IfMatch=f'"{if_match}"')

    def _joined(self, body: Joined) -> Iterator[bytes]:
        """Stream the parts through this process: only so can their ETags be held against what is read."""
        for part in body.parts:
            try:
                reading = self.read(part.bucket, part.key)
            except ApiError as error:
                raise Conflict(f"{part.bucket}/{part.key} vanished before it could be joined") from error
            if (reading.info.etag, reading.info.size_bytes) != (part.etag, part.size_bytes):
                reading.close()
                raise Conflict(f"{part.bucket}/{part.key} changed before it could be joined")
            yield from reading


class S3Reading:
    """The bytes of one object; implements the port Reading."""

    def __init__(self, info: ObjectInfo, body: Any) -> None:
        self._info = info
        self._body = body

    @property
    def info(self) -> ObjectInfo:
        """Facts of what is being read."""
        return self._info

    def __iter__(self) -> S3Reading:
        return self

    def __next__(self) -> bytes:
        if self._body is None:
            raise StopIteration
        try:
            piece: bytes = self._body.read(PIECE_BYTES)
        except BotoCoreError as error:
            self.close()
            raise _unreachable(error) from error
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        """Let go before the end."""
        body, self._body = self._body, None
        if body is not None:
            body.close()


def _in_parts(body: Iterable[bytes]) -> Iterator[bytes]:
    """Regroup a body into parts of PART_BYTES; the last one may be shorter, and is there even if empty."""
    buffer = bytearray()
    for piece in body:
        view = memoryview(piece)
        while len(buffer) + len(view) >= PART_BYTES:
            room = PART_BYTES - len(buffer)
            buffer += view[:room]
            view = view[room:]
            yield bytes(buffer)
            buffer.clear()
        buffer += view
    yield bytes(buffer)


def _facts_members(
    headers: Mapping[str, str] | None,
    metadata: Mapping[str, str] | None,
    checksums: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Spread an object's facts over the members of a put."""
    native = {
        NATIVE_HEADERS[name]: value for name, value in (headers or {}).items() if name in NATIVE_HEADERS
    }
    other = {name: value for name, value in (headers or {}).items() if name not in NATIVE_HEADERS}
    plain = dict(metadata or {})
    # Only printable ASCII without outer blanks survives as a header of its own.
    odd = {
        name: value
        for name, value in plain.items()
        if not value.isascii() or not value.isprintable() or value != value.strip() or name != name.lower()
    }
    facts = [other, odd, dict(checksums or {})]
    members: dict[str, Any] = {name: value for name, value in plain.items() if name not in odd}
    if any(facts):
        members[FACTS_ENTRY] = json.dumps(facts, separators=(",", ":"))
    return {**native, "Metadata": members}


def _info(bucket: str, key: str, answer: Mapping[str, Any]) -> ObjectInfo:
    metadata = dict(answer.get("Metadata", {}))
    other, odd, checksums = json.loads(metadata.pop(FACTS_ENTRY, "[{}, {}, {}]"))
    headers = {name: answer[member] for name, member in NATIVE_HEADERS.items() if member in answer}
    return ObjectInfo(
        bucket,
        key,
        answer["ContentLength"],
        answer["ETag"].strip('"'),
        answer["LastModified"].timestamp(),
        {**headers, **other},
        {**metadata, **odd},
        checksums,
    )


def _listed(bucket: str, one: Mapping[str, Any]) -> ObjectInfo:
    modified_at_s = one["LastModified"].timestamp()
    return ObjectInfo(bucket, one["Key"], one["Size"], one["ETag"].strip('"'), modified_at_s)


def _told(error: ClientError) -> ApiError:
    told = error.response.get("Error", {})
    return ApiError(
        str(told.get("Message") or told.get("Code") or error),
        code=str(told.get("Code") or "InternalError"),
        status=int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)),
    )


def _unreachable(error: BotoCoreError) -> ApiError:
    return ApiError(f"The object store could not be asked: {error}", code="ServiceUnavailable", status=503)
