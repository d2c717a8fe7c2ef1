"""The codecs, with botocore as the oracle: it serialises and we parse; we render and it parses."""

from __future__ import annotations

import datetime
from typing import Any
from urllib.parse import urlencode

import botocore.parsers
import botocore.serialize
import pytest
from botocore.model import OperationModel, Shape
from botocore.utils import percent_encode_sequence

from understudy.aws.bodies import WholeBody
from understudy.aws.catalog import Catalog
from understudy.aws.identify import Origin, find_call, identify, query_service
from understudy.aws.messages import HttpRequest
from understudy.aws.protocols.query import parse_form
from understudy.aws.rendering import parse_call, render_result
from understudy.aws.s3_routes import S3Routes

MOMENT = datetime.datetime(2026, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)

HOSTING = """
    Model EndpointConfig Endpoint ModelPackage ModelPackageGroup InferenceExperiment TransformJob
    MonitoringSchedule DataQualityJobDefinition ModelQualityJobDefinition ModelBiasJobDefinition
    ModelExplainabilityJobDefinition ProcessingJob InferenceRecommendationsJob
"""
LISTED = {
    "sagemaker": """
        DeleteModel DeleteEndpointConfig DeleteEndpoint UpdateEndpoint UpdateEndpointWeightsAndCapacities
        ListModels ListEndpointConfigs ListEndpoints AddTags DeleteTags ListTags UpdateModelPackage
        ListModelPackages ListMonitoringExecutions StartMonitoringSchedule StopTransformJob
        StartInferenceExperiment StopInferenceExperiment UpdateInferenceExperiment
    """,
    "cloudwatch": """
        PutMetricData GetMetricData GetMetricStatistics ListMetrics PutMetricAlarm PutCompositeAlarm
        DescribeAlarms DescribeAlarmHistory DescribeAlarmsForMetric DeleteAlarms SetAlarmState
        EnableAlarmActions DisableAlarmActions PutDashboard GetDashboard ListTagsForResource TagResource
    """,
    "logs": """
        DescribeLogGroups DescribeLogStreams GetLogEvents FilterLogEvents CreateLogGroup CreateLogStream
        PutLogEvents DeleteLogGroup PutRetentionPolicy
    """,
    "sts": "GetCallerIdentity AssumeRole GetSessionToken GetAccessKeyInfo",
    "iam": "GetRole ListRoles CreateRole GetUser AttachRolePolicy ListAttachedRolePolicies",
    "application-autoscaling": """
        RegisterScalableTarget DeregisterScalableTarget DescribeScalableTargets PutScalingPolicy
        DescribeScalingPolicies DeleteScalingPolicy DescribeScalingActivities
    """,
    "s3": """
        ListBuckets CreateBucket HeadBucket DeleteBucket PutObject GetObject HeadObject DeleteObject
        DeleteObjects CopyObject ListObjects ListObjectsV2 ListObjectVersions CreateMultipartUpload UploadPart
        UploadPartCopy CompleteMultipartUpload AbortMultipartUpload ListParts ListMultipartUploads
        GetBucketVersioning PutBucketVersioning GetBucketTagging PutBucketTagging GetObjectTagging
        PutObjectTagging DeleteObjectTagging GetBucketAcl PutBucketAcl GetObjectAcl GetBucketPolicy
        PutBucketPolicy GetBucketEncryption PutBucketEncryption GetPublicAccessBlock PutBucketCors
        PutBucketLifecycleConfiguration GetBucketLifecycleConfiguration GetObjectAttributes
        PutBucketNotificationConfiguration GetBucketNotificationConfiguration DeleteBucketPolicy
    """,
    "sagemaker-runtime": "InvokeEndpoint InvokeEndpointAsync",
}
OPERATIONS = {service: names.split() for service, names in LISTED.items()}
OPERATIONS["sagemaker"] += [f"{verb}{noun}" for noun in HOSTING.split() for verb in ("Create", "Describe")]
CASES = [
    (service, operation, "query" if service in ("sts", "iam") else None)
    for service, operations in OPERATIONS.items()
    for operation in operations
] + [
    ("cloudwatch", operation, protocol)
    for operation in OPERATIONS["cloudwatch"]
    for protocol in ("query", "smithy-rpc-v2-cbor")
]
PROTOCOLS = {"s3": "rest-xml", "sagemaker-runtime": "rest-json"}


def fill(shape: Shape, names: tuple[str, ...] = (), bound: bool = False) -> Any:
    """Return a value with every member set; lists and maps have two items; recursion stops."""
    kind = shape.type_name
    if kind == "structure":
        if getattr(shape, "is_document_type", False):
            return {"a": [1, None, "b"]}
        members = {}
        for name, member in shape.members.items():
            if member.name in names and member.type_name in ("structure", "list", "map"):
                continue
            at_header = member.serialization.get("location") is not None
            if name in ("ContentLength", "ContentMD5") or member.serialization.get("eventstream"):
                continue
            members[name] = fill(member, (*names, member.name), at_header)
            if getattr(shape, "is_tagged_union", False):
                break
        return members
    if kind == "list":
        first = fill(shape.member, (*names, shape.name), bound)
        return [first, first]
    if kind == "map":
        value = fill(shape.value, (*names, shape.name), bound)
        key = shape.key.enum[0] if getattr(shape.key, "enum", None) else "key-1"
        return {key: value, "key-2": value}
    samples = {
        "string": "plain text" if bound else 'te xt&<>"\u00fc\n\u20ac',
        "integer": 42,
        "long": 2**40,
        "float": 0.25,
        "double": 1e-7,
        "boolean": True,
        "timestamp": MOMENT,
        "blob": b"\x00bl\xffob",
    }
    return samples[kind]


def sent_by_botocore(
    model: OperationModel, protocol: str, parameters: dict[str, Any]
) -> tuple[HttpRequest, bytes]:
    serializer = botocore.serialize.create_serializer(protocol, include_validation=False)
    wire = serializer.serialize_to_request(parameters, model)
    body = wire["body"]
    if isinstance(body, dict):
        body = urlencode(body).encode()
    elif isinstance(body, str):
        body = body.encode()
    path, _, literal = wire["url_path"].partition("?")
    query = percent_encode_sequence(wire["query_string"]) if wire["query_string"] else ""
    raw_query = "&".join(part for part in (literal, query) if part).encode()
    headers = tuple((name.lower().encode(), str(value).encode()) for name, value in wire["headers"].items())
    return HttpRequest(wire["method"], path.encode(), raw_query, headers), body


@pytest.fixture(scope="session")
def routes(catalog: Catalog) -> S3Routes:
    return S3Routes(catalog.service("s3"))


@pytest.mark.parametrize(("service", "operation", "forced"), CASES)
def test_requests_and_responses(
    catalog: Catalog, routes: S3Routes, service: str, operation: str, forced: str | None
) -> None:
    model = catalog.operation(service, operation)
    assert model is not None
    protocol = forced or PROTOCOLS.get(service, "json")
    parameters = fill(model.input_shape) if model.input_shape is not None else {}
    if service == "s3" and operation != "ListBuckets":
        parameters["Bucket"] = "bucket"
        if "Key" in parameters:
            parameters["Key"] = "a/b c/ü+%&?=~.txt"
    request, raw = sent_by_botocore(model, protocol, parameters)

    origin = identify(request)
    form: dict[str, str] = {}
    if origin.protocol == "query":
        form = parse_form(request.raw_query, raw)
        origin = Origin(query_service(form, request), "query")
    call = find_call(origin, request, form, catalog, routes)
    assert (call.service, call.operation, call.protocol) == (service, operation, protocol)
    parsed = parse_call(call, request, WholeBody(raw))
    if service == "s3" and "Body" in parsed:
        parsed["Body"] = b"".join(parsed["Body"])
    assert parsed == parameters

    if model.output_shape is None:
        result: dict[str, Any] = {}
    else:
        result = fill(model.output_shape)
    if service == "s3":
        result.pop("ContentRange", None)
    answer = render_result(call, {}, dict(result), "request-1")
    body = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
    headers = {name.decode(): value.decode() for name, value in answer.raw_headers()}
    stream = model.has_streaming_output
    response = {"body": body, "headers": Headers(headers), "status_code": answer.status}
    if stream:
        response["body"] = Stream(body)
    seen = botocore.parsers.create_parser(protocol).parse(response, model.output_shape)
    if isinstance(seen, dict):
        seen.pop("ResponseMetadata", None)
    if stream:
        payload = model.output_shape.serialization["payload"]
        seen[payload] = seen[payload].data
    assert (seen or {}) == result


class Stream:
    def __init__(self, data: bytes) -> None:
        self.data = data


class Headers(dict[str, str]):
    """Looks names up whatever their case."""

    def __init__(self, headers: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in headers.items()})

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).lower())

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name.lower(), default)


def test_empty_lists_and_structures_survive(catalog: Catalog) -> None:
    model = catalog.operation("cloudwatch", "DeleteAlarms")
    assert model is not None
    request, raw = sent_by_botocore(model, "query", {"AlarmNames": []})
    form = parse_form(raw)
    call = find_call(Origin("cloudwatch", "query"), request, form, catalog, None)
    assert parse_call(call, request, WholeBody(raw)) == {"AlarmNames": []}
