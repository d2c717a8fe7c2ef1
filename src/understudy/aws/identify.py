"""Whose request is it?  Service and protocol from the head, operation once the form was read.

Owns the order of the questions: target header, CBOR, SageMaker runtime's paths, form, and S3 for all
the rest.  Main functions: :func:`identify`, :func:`find_call`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from understudy.aws.catalog import SERVICE_OF_SIGNING_NAME, TARGETS, VERSIONS, Catalog
from understudy.aws.messages import Call, HttpRequest
from understudy.aws.s3_routes import S3Routes
from understudy.core.errors import ApiError, NotImplementedOperation

_INVOCATION = re.compile(rb"/endpoints/([^/]+)/(invocations|async-invocations|invocations-response-stream)")
_INVOCATIONS = {
    b"invocations": "InvokeEndpoint",
    b"async-invocations": "InvokeEndpointAsync",
    b"invocations-response-stream": "InvokeEndpointWithResponseStream",
}
CBOR = "smithy-rpc-v2-cbor"  # protocols are named as botocore names them
_CBOR_PATH = re.compile(rb"/service/([^/]+)/operation/([^/]+)")
# boto3's S3 client signs for this name where directory buckets are meant; we have none.
DIRECTORY_BUCKETS = "s3express"
_CREDENTIAL_SERVICE = re.compile(rb"Credential=[^/,]+/\d{8}/[^/]+/([^/]+)/aws4_request")


@dataclass(frozen=True, slots=True)
class Origin:
    """Which service a head belongs to.

    Attributes:
        service: botocore's name; empty for a form whose ``Version`` will tell.
        operation: Where the head names it (target header, runtime path), else empty.
    """

    service: str
    protocol: str
    operation: str = ""


def scope_service(request: HttpRequest) -> str | None:
    """Read the signing name from the Authorization header's scope, unverified."""
    for name, value in request.headers:
        if name == b"authorization":
            match = _CREDENTIAL_SERVICE.search(value)
            return match.group(1).decode("latin-1") if match else None
    return None


def identify(request: HttpRequest) -> Origin:
    """Tell service and protocol from the head alone.

    Raises:
        ApiError: UnknownOperationException 404: a target or scope of no service here.
    """
    target = request.header("x-amz-target")
    if target is not None:
        prefix, _, operation = target.partition(".")
        service = TARGETS.get(prefix)
        if service is None:
            raise unknown_operation(target)
        return Origin(service, "json", operation)
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if request.header("smithy-protocol") == "rpc-v2-cbor" or content_type == "application/cbor":
        return _cbor_origin(request)
    signed_for = scope_service(request)
    if signed_for in (None, "sagemaker") and request.method == "POST":
        match = _INVOCATION.fullmatch(request.raw_path)
        if match is not None:
            return Origin("sagemaker-runtime", "rest-json", _INVOCATIONS[match.group(2)])
    if request.path_is(b"/") and signed_for != "s3":
        form = request.method == "POST" and content_type == "application/x-www-form-urlencoded"
        if form or b"Action=" in request.raw_query:
            return Origin("", "query")
    if signed_for not in (None, "s3", DIRECTORY_BUCKETS):
        raise unknown_operation(
            f"{SERVICE_OF_SIGNING_NAME.get(signed_for, signed_for)}: {request.method} of this path"
        )
    return Origin("s3", "rest-xml")


def _cbor_origin(request: HttpRequest) -> Origin:
    """Read service and operation from ``/service/SERVICE/operation/OPERATION``."""
    match = _CBOR_PATH.fullmatch(request.raw_path)
    service = None if match is None else TARGETS.get(match[1].decode("latin-1"))
    if match is None or service is None:
        # An operation that no service has: the answer comes in the client's tongue.
        return Origin("cloudwatch", CBOR, request.raw_path.decode("latin-1"))
    return Origin(service, CBOR, match[2].decode("latin-1"))


def query_service(form: dict[str, str], request: HttpRequest) -> str:
    """Tell a form's service by its Version, else by the signature's scope."""
    service = VERSIONS.get(form.get("Version", ""))
    if service is None and "Version" not in form:
        service = SERVICE_OF_SIGNING_NAME.get(scope_service(request) or "")
    if service not in ("sts", "iam", "cloudwatch"):
        raise ApiError(
            f"Could not find operation {form.get('Action', '')}"
            f" for version {form.get('Version', 'NO_VERSION')}",
            code="InvalidAction",
            status=400,
        )
    return service


def find_call(
    origin: Origin, request: HttpRequest, form: dict[str, str], catalog: Catalog, s3_routes: S3Routes | None
) -> Call:
    """Name the operation and find its model.

    Raises:
        ApiError: AWS has no such operation.
    """
    labels: dict[str, str] = {}
    operation = origin.operation
    if origin.protocol == "query":
        operation = form.get("Action", "")
    elif origin.protocol == "rest-xml":
        assert s3_routes is not None  # the gateway made them for this service
        operation, labels = s3_routes.find(request)
        if scope_service(request) == DIRECTORY_BUCKETS:
            raise NotImplementedOperation(
                "s3", "ListDirectoryBuckets" if operation == "ListBuckets" else operation
            )
    elif origin.protocol == "rest-json":
        labels = {
            "EndpointName": unquote_to_bytes(request.raw_path.split(b"/")[2]).decode("utf-8", "replace")
        }
    model = catalog.operation(origin.service, operation)
    if model is None:
        if origin.protocol == "query":
            version = form.get("Version", "NO_VERSION")
            raise ApiError(
                f"Could not find operation {operation} for version {version}",
                code="InvalidAction",
                status=400,
            )
        raise unknown_operation(f"{origin.service}.{operation}")
    return Call(origin.service, operation, origin.protocol, model, labels, form)


def unknown_operation(what: str) -> ApiError:
    """Say that AWS itself has no such thing (or that none of ours has that prefix)."""
    return ApiError(f"Unknown operation: {what}", code="UnknownOperationException", status=404)
