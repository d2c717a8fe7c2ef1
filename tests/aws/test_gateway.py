"""Real boto3 clients against the Gateway."""

from __future__ import annotations

import base64
import datetime
import gzip
import hashlib
import http.client
import io
import json
import logging
import queue
import shutil
import subprocess
import urllib.request
import zlib
from typing import Any

import botocore.httpchecksum
import cbor2
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from botocore.httpchecksum import AwsChunkedWrapper

from understudy.core import signing
from understudy.core.errors import ApiError, NotImplementedOperation, ValidationException

KEYS_SECRET = "a secret/with+odd=characters"  # conftest serves with it


class Store:
    """An object store of a few lines, in wire names."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.seen: list[dict[str, Any]] = []

    def put(self, services: Any, request: dict[str, Any]) -> dict[str, Any]:
        body = b"".join(request["Body"])
        self.seen.append({name: value for name, value in request.items() if name != "Body"})
        self.objects[request["Key"]] = {"Body": body, "Metadata": request.get("Metadata", {})}
        return {
            "ETag": f'"{hashlib.md5(body).hexdigest()}"',
            **{name: value for name, value in request.items() if name.startswith("ChecksumCRC")},
        }

    def get(self, services: Any, request: dict[str, Any]) -> dict[str, Any]:
        found = self.objects.get(request["Key"])
        if found is None:
            raise ApiError("The specified key does not exist.", code="NoSuchKey", status=404)
        body = found["Body"]
        answer = {"ContentLength": len(body), "ContentType": "text/plain", "Metadata": found["Metadata"]}
        answer["LastModified"] = 1_700_000_000.5
        if "Range" in request:
            body = body[2:5]
            answer |= {"ContentLength": 3, "ContentRange": "bytes 2-4/10"}
        return {**answer, "Body": iter([body[:1], body[1:]])}

    def head(self, services: Any, request: dict[str, Any]) -> dict[str, Any]:
        answer = self.get(services, request)
        del answer["Body"]
        return answer

    def operations(self) -> dict[tuple[str, str], Any]:
        return {
            ("s3", "PutObject"): self.put,
            ("s3", "UploadPart"): self.put,
            ("s3", "GetObject"): self.get,
            ("s3", "HeadObject"): self.head,
        }


def code_of(call: Any, *args: Any, **kwargs: Any) -> tuple[str, int, str]:
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    answer = caught.value.response
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-amzn-requestid"]
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


def test_each_service_finds_its_operation(serve: Any) -> None:
    seen: dict[str, Any] = {}

    def remember(name: str, result: dict[str, Any]) -> Any:
        def operation(services: Any, request: dict[str, Any]) -> dict[str, Any]:
            seen[name] = request
            return result

        return operation

    server = serve(
        {
            ("sagemaker", "DescribeModel"): remember(
                "DescribeModel",
                {
                    "ModelName": "m",
                    "ModelArn": "arn:aws:sagemaker:us-east-1:123456789012:model/m",
                    "CreationTime": 12.25,
                },
            ),
            ("cloudwatch", "PutMetricData"): remember("PutMetricData", {}),
            ("logs", "DescribeLogGroups"): remember(
                "DescribeLogGroups", {"logGroups": [{"creationTime": 5}]}
            ),
            ("sts", "GetCallerIdentity"): remember("GetCallerIdentity", {"Account": "123456789012"}),
            ("iam", "GetRole"): remember(
                "GetRole",
                {
                    "Role": {
                        "Path": "/",
                        "RoleName": "r",
                        "RoleId": "AROA",
                        "Arn": "arn:aws:iam::123456789012:role/r",
                        "CreateDate": 0.0,
                    }
                },
            ),
            ("s3", "ListBuckets"): remember(
                "ListBuckets", {"Buckets": [{"Name": "b&<", "CreationDate": 0.0}]}
            ),
            ("s3", "GetBucketLocation"): remember("GetBucketLocation", {"LocationConstraint": "eu-west-1"}),
        }
    )
    model = server.client("sagemaker").describe_model(ModelName="m")
    assert model["CreationTime"].timestamp() == 12.25
    assert seen["DescribeModel"] == {"ModelName": "m"}
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    data = [{"MetricName": f"m{n}", "Value": 1.5, "Timestamp": moment} for n in range(900)]
    server.client("cloudwatch").put_metric_data(Namespace="N", MetricData=data)  # large enough to be gzip'd
    assert seen["PutMetricData"]["MetricData"] == data
    groups = server.client("logs").describe_log_groups(logGroupNamePrefix="/aws/")["logGroups"]
    assert groups == [{"creationTime": 5}]
    assert server.client("sts").get_caller_identity()["Account"] == "123456789012"
    assert server.client("sts", token="session").get_caller_identity()["Account"] == "123456789012"
    assert server.client("iam").get_role(RoleName="r")["Role"]["RoleName"] == "r"
    assert server.client("s3").list_buckets()["Buckets"][0]["Name"] == "b&<"
    assert server.client("s3").get_bucket_location(Bucket="bucket")["LocationConstraint"] == "eu-west-1"


def test_global_services_may_be_signed_for_us_east_1(serve: Any) -> None:
    server = serve(
        {("iam", "ListRoles"): lambda s, r: {"Roles": [], "IsTruncated": False}}, region="eu-west-1"
    )
    assert server.client("iam", region="us-east-1").list_roles()["Roles"] == []
    assert server.client("iam", region="eu-west-1").list_roles()["Roles"] == []


def test_unknown_and_unimplemented_operations_are_modelled_errors(serve: Any) -> None:
    server = serve({})
    for service, method in (
        ("sagemaker", "list_models"),
        ("cloudwatch", "describe_alarms"),
        ("logs", "describe_log_groups"),
        ("sts", "get_caller_identity"),
        ("iam", "list_roles"),
        ("s3", "list_buckets"),
        ("application-autoscaling", None),
    ):
        client = server.client(service)
        if method is None:
            code, status, message = code_of(client.describe_scalable_targets, ServiceNamespace="sagemaker")
        else:
            code, status, message = code_of(getattr(client, method))
        assert (code, status) == ("NotImplemented", 501), service
        assert "Understudy does not implement" in message
    runtime = server.client("sagemaker-runtime")
    assert code_of(runtime.invoke_endpoint, EndpointName="e", Body=b"1")[:2] == ("NotImplemented", 501)


def test_directory_buckets_are_not_mistaken_for_buckets(serve: Any) -> None:
    server = serve({("s3", "ListBuckets"): lambda s, r: {}})
    code, status, message = code_of(server.client("s3").list_directory_buckets)
    assert (code, status) == ("NotImplemented", 501)
    assert "ListDirectoryBuckets" in message


def test_credentials_that_do_not_hold(serve: Any) -> None:
    server = serve({("s3", "ListBuckets"): lambda s, r: {}})
    expected = {
        "sagemaker": (
            "InvalidSignatureException",
            "UnrecognizedClientException",
            "InvalidSignatureException",
        ),
        "sts": ("SignatureDoesNotMatch", "InvalidClientTokenId", "SignatureDoesNotMatch"),
        "s3": ("SignatureDoesNotMatch", "InvalidAccessKeyId", "AuthorizationHeaderMalformed"),
    }
    methods = {"sagemaker": "list_models", "sts": "get_access_key_info", "s3": "list_buckets"}
    for service, (wrong_secret, wrong_key, wrong_region) in expected.items():
        arguments = {"AccessKeyId": "A" * 20} if service == "sts" else {}
        method = methods[service]
        assert code_of(getattr(server.client(service, secret="no"), method), **arguments)[0] == wrong_secret
        assert code_of(getattr(server.client(service, key="AKIDNO"), method), **arguments)[0] == wrong_key
        client = server.client(service, region="eu-west-3")
        assert code_of(getattr(client, method), **arguments)[0] == wrong_region
    # Unsigned.
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in answer.read()
    headers = {"X-Amz-Target": "SageMaker.ListModels", "Content-Type": "application/x-amz-json-1.1"}
    connection.request("POST", "/", b"{}", headers)
    answer = connection.getresponse()
    assert json.loads(answer.read())["__type"] == "MissingAuthenticationToken"
    connection.close()


def test_without_authentication_any_request_is_taken(serve: Any) -> None:
    store = Store()
    server = serve(
        {("sts", "GetCallerIdentity"): lambda s, r: {"Account": "1"}, **store.operations()}, auth="none"
    )
    assert server.client("sts", secret="whatever").get_caller_identity()["Account"] == "1"
    request = urllib.request.Request(f"{server.url}/b/plain", data=b"abc", method="PUT")
    assert urllib.request.urlopen(request).status == 200
    server.client("s3", key="other", secret="whatever").put_object(
        Bucket="b", Key="signed", Body=io.BytesIO(b"x")
    )
    assert store.objects["plain"]["Body"] == b"abc"
    assert store.objects["signed"]["Body"] == b"x"


def test_objects_go_in_and_out(serve: Any) -> None:
    store = Store()
    server = serve(store.operations())
    s3 = server.client("s3")
    key = "a b/ü+%2F//x?&=#~.txt"
    put = s3.put_object(
        Bucket="bucket", Key=key, Body=b"0123456789", Metadata={"One": "1"}, ContentType="text/plain"
    )
    assert put["ETag"] == f'"{hashlib.md5(b"0123456789").hexdigest()}"'
    assert put["ChecksumCRC32"]
    assert store.seen[-1]["ContentLength"] == 10
    got = s3.get_object(Bucket="bucket", Key=key)
    assert got["Body"].read() == b"0123456789"
    assert got["Metadata"] == {"one": "1"}
    assert got["LastModified"].timestamp() == 1_700_000_000
    part = s3.get_object(Bucket="bucket", Key=key, Range="bytes=2-4")
    assert (part["ResponseMetadata"]["HTTPStatusCode"], part["Body"].read()) == (206, b"234")
    assert s3.head_object(Bucket="bucket", Key=key)["ContentLength"] == 10
    assert code_of(s3.get_object, Bucket="bucket", Key="no")[:2] == ("NoSuchKey", 404)
    assert code_of(s3.head_object, Bucket="bucket", Key="no")[:2] == ("404", 404)
    s3.put_object(Bucket="bucket", Key="empty", Body=b"")
    assert store.objects["empty"]["Body"] == b""


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_checksums_in_headers_and_trailers(serve: Any, algorithm: str) -> None:
    store = Store()
    server = serve(store.operations())
    s3 = server.client("s3")
    body = b"x" * 300_000
    s3.put_object(Bucket="b", Key="header", Body=body, ChecksumAlgorithm=algorithm)
    s3.put_object(Bucket="b", Key="stream", Body=io.BytesIO(body), ChecksumAlgorithm=algorithm)
    s3.upload_part(Bucket="b", Key="part", UploadId="u", PartNumber=1, Body=body, ChecksumAlgorithm=algorithm)
    assert all(found["Body"] == body for found in store.objects.values())
    assert all(f"Checksum{algorithm}" in seen for seen in store.seen)
    wrong = {f"Checksum{algorithm}": "AAAA"}
    assert code_of(s3.put_object, Bucket="b", Key="bad", Body=body, **wrong)[:2] == ("BadDigest", 400)
    assert "bad" not in store.objects


def test_content_md5(serve: Any) -> None:
    store = Store()
    s3 = serve(store.operations()).client("s3")
    assert code_of(s3.put_object, Bucket="b", Key="k", Body=b"1", ContentMD5="AAAA")[0] == "InvalidDigest"
    wrong = "1B2M2Y8AsgTpgAmY7PhCfg=="  # of nothing
    assert code_of(s3.put_object, Bucket="b", Key="k", Body=b"1", ContentMD5=wrong)[0] == "BadDigest"
    assert not store.objects
    s3.put_object(Bucket="b", Key="k", Body=b"", ContentMD5=wrong)


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_presigned_urls(serve: Any, version: str) -> None:
    store = Store()
    server = serve(store.operations())
    s3 = server.client("s3", signature_version=version)
    url = s3.generate_presigned_url("put_object", {"Bucket": "b", "Key": "k ü"})
    assert ("X-Amz-Signature" in url) == (version == "s3v4")
    urllib.request.urlopen(
        urllib.request.Request(url, data=b"12345", method="PUT", headers={"Content-Type": ""})
    )
    assert store.objects["k ü"]["Body"] == b"12345"
    overrides = {"ResponseContentType": "text/csv", "ResponseContentDisposition": "a\r\nX-Evil: 1"}
    url = s3.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k ü", **overrides})
    answer = urllib.request.urlopen(url)
    assert answer.read() == b"12345"
    assert answer.headers["Content-Type"] == "text/csv"
    assert answer.headers["X-Evil"] is None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url.replace("k%20", "j%20"))
    assert b"SignatureDoesNotMatch" in caught.value.read()
    url = s3.generate_presigned_url("get_object", {"Bucket": "b", "Key": "k"}, ExpiresIn=-400)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(url)
    assert caught.value.code in (400, 403)
    caught.value.close()


def test_bodies_stream_both_ways(serve: Any) -> None:
    """Neither direction holds the object: the operation sees pieces while the client still sends."""
    pieces: list[int] = []

    def put(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        for piece in request["Body"]:
            pieces.append(len(piece))
        return {"ETag": '"e"'}

    total = 48 * 1024 * 1024

    def get(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        return {"ContentLength": total, "Body": (b"z" * 65536 for _ in range(total // 65536))}

    server = serve({("s3", "PutObject"): put, ("s3", "GetObject"): get})
    s3 = server.client("s3")
    s3.put_object(Bucket="b", Key="k", Body=b"y" * total)
    assert sum(pieces) == total
    assert max(pieces) <= 4 * 1024 * 1024
    read = 0
    body = s3.get_object(Bucket="b", Key="k")["Body"]
    while data := body.read(1 << 20):
        read += len(data)
    assert read == total


def test_a_body_that_breaks_off_is_cut(serve: Any, caplog: Any) -> None:
    def get(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        def pieces() -> Any:
            yield b"a" * 300_000
            raise OSError("disk gone")

        return {"ContentLength": 600_000, "Body": pieces()}

    server = serve({("s3", "GetObject"): get}, auth="none")
    with pytest.raises(http.client.IncompleteRead), caplog.at_level(logging.CRITICAL):
        urllib.request.urlopen(f"{server.url}/b/k").read()


def test_faults_of_operations_show_no_details(serve: Any, caplog: Any) -> None:
    def fail(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("secret path /etc/x")

    server = serve(
        {("sagemaker", "ListModels"): fail, ("s3", "ListBuckets"): fail, ("sts", "GetCallerIdentity"): fail}
    )
    code, status, message = code_of(server.client("sagemaker").list_models)
    assert (code, status) == ("InternalFailure", 500)
    assert "secret path" not in message
    assert "secret path" in caplog.text
    assert code_of(server.client("s3").list_buckets)[0] == "InternalError"
    assert code_of(server.client("sts").get_caller_identity)[0] == "InternalFailure"


def test_errors_of_operations_reach_the_client(serve: Any) -> None:
    def refuse(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        raise ValidationException('Could not find model "arn".')

    def missing(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        raise ApiError("bad widget", code="InvalidParameterInput", status=400)

    def conflict(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        raise ApiError("gone", code="NoSuchEntity", status=404)

    server = serve(
        {
            ("sagemaker", "DescribeModel"): refuse,
            ("cloudwatch", "PutDashboard"): missing,
            ("iam", "GetRole"): conflict,
        }
    )
    assert code_of(server.client("sagemaker").describe_model, ModelName="m") == (
        "ValidationException",
        400,
        'Could not find model "arn".',
    )
    cloudwatch = server.client("cloudwatch")
    with pytest.raises(cloudwatch.exceptions.DashboardInvalidInputError):
        cloudwatch.put_dashboard(DashboardName="no", DashboardBody="{}")
    iam = server.client("iam")
    with pytest.raises(iam.exceptions.NoSuchEntityException):
        iam.get_role(RoleName="r")


def raw(server: Any, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.headers["x-amzn-requestid"]
    return answer.status, text


JSON = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "SageMaker.ListModels"}


def test_malformed_requests_are_modelled_errors(serve: Any) -> None:
    operations = {
        ("sagemaker", "ListModels"): lambda s, r: {"Models": []},
        ("cloudwatch", "PutMetricData"): lambda s, r: {},
        ("s3", "DeleteObjects"): lambda s, r: {},
        ("s3", "ListObjectsV2"): lambda s, r: {"KeyCount": 0},
    }
    server = serve(operations, auth="none")
    assert raw(server, "POST", "/", b"", JSON)[0] == 200
    for body in (
        b"{",
        b'{"a":1,"a":2}',
        b'{"MaxResults":NaN}',
        b'{"MaxResults":1e999}',
        b'{"MaxResults":' + b"9" * 5000 + b"}",
        b'{"MaxResults":1.5}',
        b'{"MaxResults":true}',
        b'{"NameContains":["x"]}',
        b'{"NameContains":"\\ud800"}',
        b"[" * 100_000,
        b'{"x":' + b"[" * 70 + b"]" * 70 + b"}",
        b"\xff\xfe{}",
        b"[]",
        b"3",
    ):
        status, text = raw(server, "POST", "/", body, JSON)
        assert (status, json.loads(text)["__type"]) == (400, "SerializationException"), body[:50]
    status, text = raw(server, "POST", "/", b'{"Nam":1}', JSON)
    assert (status, json.loads(text)["__type"]) == (400, "ValidationException")
    assert "Unknown member 'Nam'" in json.loads(text)["message"]
    status, text = raw(server, "POST", "/", b"{}", JSON | {"X-Amz-Target": "SageMaker.Frobnicate"})
    assert (status, json.loads(text)["__type"]) == (404, "UnknownOperationException")
    status, text = raw(server, "POST", "/", b"{}", JSON | {"X-Amz-Target": "Nobody.Frobnicate"})
    assert (status, json.loads(text)["__type"]) == (404, "UnknownOperationException")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    status, text = raw(server, "POST", "/", b"Action=Frobnicate&Version=2011-06-15", form)
    assert status == 400
    assert b"<Code>InvalidAction</Code>" in text
    assert b"InvalidAction" in raw(server, "POST", "/", b"Action=X&Version=1999-01-01", form)[1]
    assert b"MalformedQueryString" in raw(server, "POST", "/", b"Action=X&Action=Y", form)[1]
    assert b"<Code>MethodNotAllowed</Code>" in raw(server, "PATCH", "/b/k")[1]
    assert b"<Code>InvalidURI</Code>" in raw(server, "GET", "/b/%ff")[1]
    assert b"<Code>InvalidArgument</Code>" in raw(server, "GET", "/b?list-type=2&max-keys=x")[1]
    entity = b'<!DOCTYPE d [<!ENTITY a "aaaa">]><Delete><Object><Key>&a;</Key></Object></Delete>'
    for body in (entity, b"<Delete>", b"<a>" * 100 + b"</a>" * 100, b"<Delete><Object/>"):
        assert b"<Code>MalformedXML</Code>" in raw(server, "POST", "/b?delete", body)[1], body[:40]
    multipart = {"Content-Type": "multipart/form-data; boundary=x"}
    assert raw(server, "POST", "/b", b"--x--", multipart)[0] == 501
    path = "/service/GraniteServiceVersion20100801/operation/ListMetrics"
    headers = {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"}
    status, text = raw(server, "POST", path, b"\xa0", headers)
    assert (status, cbor2.loads(text)["__type"]) == (501, "NotImplemented")
    assert "cloudwatch.ListMetrics" in cbor2.loads(text)["message"]
    status, text = raw(server, "POST", path, b"\xa1", headers)
    assert (status, cbor2.loads(text)["__type"]) == (501, "NotImplemented")
    for unknown in ("/service/Nobody/operation/X", path + "s", path + "/x", "/"):
        status, text = raw(server, "POST", unknown, b"\xa0", headers)
        assert (status, cbor2.loads(text)["__type"]) == (404, "UnknownOperationException")


def test_cbor_in_and_out(serve: Any) -> None:
    seen: list[dict[str, Any]] = []

    def history(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        if request.get("MaxRecords") == 1:
            raise ApiError("The NextToken is not valid.", code="InvalidNextToken", status=400)
        return {"AlarmHistoryItems": [{"AlarmName": "\u00fc", "Timestamp": 1770091506.5}]}

    server = serve({("cloudwatch", "DescribeAlarmHistory"): history}, auth="none")
    path = "/service/GraniteServiceVersion20100801/operation/DescribeAlarmHistory"
    headers = {"smithy-protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"}

    def ask(document: Any) -> tuple[int, Any]:
        status, text = raw(server, "POST", path, cbor2.dumps(document), headers)
        return status, cbor2.loads(text)

    moment = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
    status, answer = ask({"StartDate": cbor2.CBORTag(1, moment.timestamp()), "MaxRecords": 5})
    assert (status, seen) == (200, [{"StartDate": moment, "MaxRecords": 5}])
    (item,) = answer["AlarmHistoryItems"]
    assert (item["AlarmName"], item["Timestamp"].timestamp()) == ("\u00fc", 1770091506.5)
    assert ask({"MaxRecords": 1}) == (
        400, {"__type": "InvalidNextToken", "message": "The NextToken is not valid."}
    )  # fmt: skip
    status, answer = ask({"MaxRecords": 101})
    assert status == 400 and "less than or equal to 100" in answer["message"]
    assert raw(server, "POST", path, b"\xa1", headers)[0] == 400


def test_caps_on_control_bodies(serve: Any) -> None:
    server = serve({("sagemaker", "ListModels"): lambda s, r: {"Models": []}}, auth="none")
    status, text = raw(server, "POST", "/", b" " * (8 * 1024 * 1024 + 1), JSON)
    assert (status, json.loads(text)["__type"]) == (413, "RequestEntityTooLarge")
    bomb = gzip.compress(b" " * (64 * 1024 * 1024))
    status, text = raw(server, "POST", "/", bomb, JSON | {"Content-Encoding": "gzip"})
    assert (status, json.loads(text)["__type"]) == (413, "RequestEntityTooLarge")
    status, text = raw(server, "POST", "/", b"no gzip", JSON | {"Content-Encoding": "gzip"})
    assert (status, json.loads(text)["__type"]) == (400, "SerializationException")
    status, _ = raw(server, "POST", "/", gzip.compress(b"{}"), JSON | {"Content-Encoding": "gzip"})
    assert status == 200


def test_the_query_protocol_of_older_clients(serve: Any) -> None:
    seen: list[dict[str, Any]] = []

    def put(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        seen.append(request)
        return {}

    server = serve({("cloudwatch", "PutMetricData"): put}, auth="none")
    form = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    body = (
        b"Action=PutMetricData&Version=2010-08-01&Namespace=N&MetricData.member.1.MetricName=M"
        b"&MetricData.member.1.Value=0.5&MetricData.member.1.Dimensions.member.1.Name=d"
        b"&MetricData.member.1.Dimensions.member.1.Value=v"
    )
    status, text = raw(server, "POST", "/", body, form)
    assert status == 200
    assert b"<PutMetricDataResponse" in text
    assert seen == [
        {
            "Namespace": "N",
            "MetricData": [{"MetricName": "M", "Value": 0.5, "Dimensions": [{"Name": "d", "Value": "v"}]}],
        }
    ]
    status, text = raw(server, "POST", "/", b"Action=PutMetricData&Version=2010-08-01&Namespace=", form)
    assert status == 400
    assert b"<Code>ValidationError</Code>" in text


def test_overload_is_refused(serve: Any) -> None:
    server = serve({("sagemaker", "ListModels"): lambda s, r: {"Models": []}}, auth="none", waiting_limit=0)
    status, text = raw(server, "POST", "/", b"{}", JSON)
    assert (status, json.loads(text)["__type"]) == (503, "ServiceUnavailable")


def test_not_implemented_names_the_operation() -> None:
    assert "sagemaker.CreateApp" in NotImplementedOperation("sagemaker", "CreateApp").message


def chunked_headers(claim: str, length: int, algorithm: str) -> dict[str, str]:
    return {
        "X-Amz-Content-SHA256": claim,
        "X-Amz-Decoded-Content-Length": str(length),
        "X-Amz-Trailer": f"x-amz-checksum-{algorithm}",
        "Content-Encoding": "aws-chunked,gzip",
    }


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_unsigned_chunks_with_a_trailer(serve: Any, algorithm: str) -> None:
    """As boto3 sends over TLS; the framing is botocore's own."""
    store = Store()
    server = serve(store.operations(), auth="none")
    data = bytes(range(256)) * 1000
    checksum = botocore.httpchecksum._CHECKSUM_CLS[algorithm]
    wrapper = AwsChunkedWrapper(io.BytesIO(data), checksum, f"x-amz-checksum-{algorithm}", chunk_size=65536)
    encoded = wrapper.read()
    headers = chunked_headers("STREAMING-UNSIGNED-PAYLOAD-TRAILER", len(data), algorithm)
    assert raw(server, "PUT", "/b/k", encoded, headers)[0] == 200
    assert store.objects["k"]["Body"] == data
    assert store.seen[-1]["ContentEncoding"] == "gzip"
    assert store.seen[-1]["ContentLength"] == len(data)
    spoilt = encoded.replace(bytes(range(100)), bytes(99) + b"x", 1)
    status, text = raw(server, "PUT", "/b/spoilt", spoilt, headers)
    assert (status, b"<Code>BadDigest</Code>" in text) == (400, True)
    status, text = raw(server, "PUT", "/b/short", encoded[:-40], headers)
    assert (status, b"<Code>IncompleteBody</Code>" in text) == (400, True)
    wrong_length = headers | {"X-Amz-Decoded-Content-Length": str(len(data) + 1)}
    assert b"IncompleteBody" in raw(server, "PUT", "/b/long", encoded, wrong_length)[1]
    assert set(store.objects) == {"k"}


@pytest.mark.parametrize("trailing", [False, True])
def test_signed_chunks(serve: Any, trailing: bool) -> None:
    store = Store()
    server = serve(store.operations())
    chunks = [b"a" * 65536, b"b" * 1024]
    data = b"".join(chunks)
    claim = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailing else "")
    headers = chunked_headers(claim, len(data), "crc32")
    if not trailing:
        del headers["X-Amz-Trailer"]
    request = AWSRequest(method="PUT", url=f"{server.url}/b/k", headers=headers)
    SigV4Auth(Credentials("AKIDTEST", KEYS_SECRET), "s3", "us-east-1").add_auth(request)
    authorization = request.headers["Authorization"]
    amz_date = request.headers["X-Amz-Date"]
    signature = authorization.rpartition("Signature=")[2]
    key = signing._signing_key(KEYS_SECRET, amz_date[:8], "us-east-1", "s3")
    scope = f"{amz_date[:8]}/us-east-1/s3/aws4_request"
    verified = signing.Verified("AKIDTEST", "s3", "us-east-1", signature, claim, key, scope, amz_date)
    encoded, previous = b"", signature
    for chunk in [*chunks, b""]:
        previous = signing.chunk_signature(verified, previous, hashlib.sha256(chunk).hexdigest())
        encoded += b"%x;chunk-signature=%s\r\n%s" % (len(chunk), previous.encode(), chunk)
        encoded += b"\r\n" if chunk else b""
    if trailing:
        value = base64.b64encode(zlib.crc32(data).to_bytes(4, "big"))
        trailer = b"x-amz-checksum-crc32:" + value + b"\n"
        encoded += trailer[:-1] + b"\r\nx-amz-trailer-signature:"
        encoded += signing.trailer_signature(verified, previous, trailer).encode() + b"\r\n"
    encoded += b"\r\n"
    sent = dict(request.headers.items())
    assert raw(server, "PUT", "/b/k", encoded, sent)[0] == 200
    assert store.objects["k"]["Body"] == data
    status, text = raw(server, "PUT", "/b/k", encoded.replace(b"bbb", b"bbc", 1), sent)
    assert (status, b"<Code>SignatureDoesNotMatch</Code>" in text) == (403, True)


def test_curl_signs_too(serve: Any) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    store = Store()
    server = serve({("sagemaker", "ListModels"): lambda s, r: {"Models": []}, **store.operations()})
    common = [curl, "-s", "--user", f"AKIDTEST:{KEYS_SECRET}"]
    target = ["-H", "X-Amz-Target: SageMaker.ListModels", "-H", "Content-Type: application/x-amz-json-1.1"]
    signed = ["--aws-sigv4", "aws:amz:us-east-1:sagemaker"]
    answer = subprocess.run(
        [*common, *signed, *target, "-d", "{}", f"{server.url}/"], capture_output=True, check=True
    )
    assert json.loads(answer.stdout) == {"Models": []}


def test_bodies_are_closed_when_the_client_leaves(serve: Any) -> None:
    """The file behind a body is let go of, and the thread drawing it is free again."""
    closed: queue.Queue[str] = queue.Queue()

    class Reading:
        def __iter__(self) -> Any:
            while True:
                yield b"z" * 65536

        def close(self) -> None:
            closed.put("closed")

    def get(services: Any, request: dict[str, Any]) -> dict[str, Any]:
        return {"ContentLength": 1 << 40, "Body": Reading()}

    server = serve({("s3", "GetObject"): get}, auth="none")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/b/k")
    answer = connection.getresponse()
    assert answer.read(10) == b"z" * 10
    answer.close()
    connection.close()
    assert closed.get(timeout=30) == "closed"


def test_s3_answers_have_the_root_elements_of_s3(serve: Any) -> None:
    operations = {
        ("s3", "ListBuckets"): lambda s, r: {"Buckets": []},
        ("s3", "ListObjectsV2"): lambda s, r: {"KeyCount": 0},
        ("s3", "CreateMultipartUpload"): lambda s, r: {"UploadId": "u"},
    }
    server = serve(operations, auth="none")
    assert b"<ListAllMyBucketsResult " in raw(server, "GET", "/")[1]
    assert b"<ListBucketResult " in raw(server, "GET", "/b?list-type=2")[1]
    assert b"<InitiateMultipartUploadResult " in raw(server, "POST", "/b/k?uploads")[1]


def test_an_early_refusal_leaves_the_connection_usable(serve: Any) -> None:
    """What a refused PUT still sends is never taken for the next request."""
    store = Store()
    server = serve({("s3", "ListBuckets"): lambda s, r: {"Buckets": []}, **store.operations()}, auth="none")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    for _ in range(2):
        connection.request("PUT", "/b/k", b"GET / HTTP/1.1\r\n\r\n", {"Content-MD5": "zz"})
        answer = connection.getresponse()
        assert b"InvalidDigest" in answer.read()
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
