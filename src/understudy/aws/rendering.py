"""Picks the codec of a call's protocol, and gives every error its protocol's form.

Main functions: :func:`parse_call`, :func:`render_result`, :func:`render_failure`.
"""

from __future__ import annotations

from typing import Any

from understudy.aws.catalog import Catalog
from understudy.aws.identify import CBOR, Origin
from understudy.aws.messages import MAX_CONTROL_BODY_BYTES, Answer, BodySource, Call, HttpRequest, Parameters
from understudy.aws.protocols import cbor, query, rest
from understudy.aws.protocols import json as json_codec
from understudy.aws.protocols.scalars import Malformed
from understudy.core.errors import ApiError

# GetObject's and HeadObject's overrides: request member -> response member.
_OVERRIDES = {
    "ResponseCacheControl": "CacheControl",
    "ResponseContentDisposition": "ContentDisposition",
    "ResponseContentEncoding": "ContentEncoding",
    "ResponseContentLanguage": "ContentLanguage",
    "ResponseContentType": "ContentType",
    "ResponseExpires": "Expires",
}
# Codes of unreadable requests where the protocol has its own.
_MALFORMED = {"query": "MalformedInput", "rest-xml": "InvalidArgument"}


def parse_call(call: Call, request: HttpRequest, body: BodySource) -> Parameters:
    """Read the parameters of a call."""
    if call.protocol == "json":
        return json_codec.parse(call, request, body.read(MAX_CONTROL_BODY_BYTES))
    if call.protocol == CBOR:
        return cbor.parse(call, request, body.read(MAX_CONTROL_BODY_BYTES))
    if call.protocol == "query":
        return query.parse(call, request, b"")
    return rest.parse(call, request, body)


def render_result(call: Call, parameters: Parameters, result: Parameters, request_id: str) -> Answer:
    """Write the result of a call."""
    if call.protocol == "json":
        return json_codec.render(call, result)
    if call.protocol == CBOR:
        return cbor.render(call, result)
    if call.protocol == "query":
        return query.render(call, result, request_id)
    if call.operation in ("GetObject", "HeadObject"):
        stated = {
            member: parameters[name]
            for name, member in _OVERRIDES.items()
            if parameters.get(name) is not None
        }
        result = {**result, **stated}
    return rest.render(call, result)


def render_failure(
    catalog: Catalog, origin: Origin | None, request: HttpRequest, error: ApiError, request_id: str
) -> Answer:
    """Write an error in the protocol of the request; JSON where that is not known."""
    if origin is None or origin.protocol in ("json", CBOR):
        metadata: dict[str, Any] = {}
        shape_name = None
        if origin is not None:
            service = catalog.service(origin.service)
            metadata = service.metadata
            if "awsQueryCompatible" in metadata:
                names = {shape.error_code: shape.name for shape in service.error_shapes}
                shape_name = names.get(error.code)
        if origin is not None and origin.protocol == CBOR:
            return cbor.render_error(metadata, error, shape_name)
        return json_codec.render_error(metadata, error, shape_name)
    if isinstance(error, Malformed) and error.code == Malformed.code:
        error.code = _MALFORMED.get(origin.protocol, error.code)
    if origin.protocol == "query":
        metadata = catalog.service(origin.service).metadata if origin.service else {}
        return query.render_error(metadata, error, request_id)
    if origin.protocol == "rest-json":
        return rest.render_json_error(error)
    return rest.render_s3_error(error, request, request_id)
