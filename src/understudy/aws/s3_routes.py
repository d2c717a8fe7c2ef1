"""Which S3 operation a request means: by method, path style and the parameters that tell operations apart.

Main function: :class:`S3Routes`.  Source: ``http`` and ``location`` traits of botocore's S3 model.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from botocore.model import ServiceModel

from understudy.aws.messages import HttpRequest
from understudy.aws.protocols.rest import parse_query_string
from understudy.aws.protocols.scalars import Malformed
from understudy.core.errors import ApiError

# Same route as another operation and not on general-purpose buckets.
_SHADOWED = frozenset({"ListDirectoryBuckets", "WriteGetObjectResponse"})


@dataclass(frozen=True, slots=True)
class _Route:
    operation: str
    method: str
    shape: str  # "" (service), "bucket" or "key"
    literals: frozenset[tuple[str, str]]
    query: frozenset[str]
    headers: frozenset[str]

    @property
    def weight(self) -> int:
        return len(self.literals) + len(self.query) + len(self.headers)


class S3Routes:
    """The routes of S3, most demanding first."""

    def __init__(self, model: ServiceModel) -> None:
        routes = [
            _route_of(model, name)
            for name in model.operation_names
            if name not in _SHADOWED and not model.operation_model(name).deprecated
        ]
        self._routes = sorted(routes, key=lambda route: (-route.weight, route.operation))

    def find(self, request: HttpRequest) -> tuple[str, dict[str, str]]:
        """Name the operation and the decoded path labels.

        Raises:
            ApiError: MethodNotAllowed 405, or NotImplemented 501 for form uploads.
        """
        labels = path_labels(request.raw_path)
        shape = "key" if "Key" in labels else "bucket" if "Bucket" in labels else ""
        query = parse_query_string(request.raw_query)
        names = {key for key, _ in request.headers}
        content_type = request.header("content-type") or ""
        if request.method == "POST" and content_type.startswith("multipart/form-data"):
            raise ApiError(
                "Understudy does not implement POST form uploads; use PUT or a presigned PUT URL.",
                code="NotImplemented",
                status=501,
            )
        for route in self._routes:
            if (
                route.method == request.method
                and route.shape == shape
                and all(name in query and value in ("", query[name][0]) for name, value in route.literals)
                and route.query <= query.keys()
                and all(name.encode() in names for name in route.headers)
            ):
                return route.operation, labels
        raise ApiError(
            "The specified method is not allowed against this resource.", code="MethodNotAllowed", status=405
        )


def _route_of(model: ServiceModel, name: str) -> _Route:
    operation = model.operation_model(name)
    path, _, literal = operation.http["requestUri"].partition("?")
    required_query, required_headers = set(), set()
    shape = operation.input_shape
    for member_name in shape.required_members if shape is not None else ():
        traits = shape.members[member_name].serialization
        if traits.get("location") == "querystring":
            required_query.add(traits["name"])
        elif traits.get("location") == "header":
            required_headers.add(traits["name"].lower())
    pairs = (pair.partition("=") for pair in literal.split("&") if pair)
    return _Route(
        name,
        operation.http["method"],
        "key" if "{Key+}" in path else "bucket" if "{Bucket}" in path else "",
        frozenset((key, value) for key, _, value in pairs),
        frozenset(required_query),
        frozenset(required_headers),
    )


def path_labels(raw_path: bytes) -> dict[str, str]:
    """Decode bucket and key of a path-style URL.

    >>> path_labels(b"/b/a%2Fb%20c")
    {'Bucket': 'b', 'Key': 'a/b c'}
    """
    bucket, _, key = raw_path.removeprefix(b"/").partition(b"/")
    labels = {}
    try:
        if bucket:
            labels["Bucket"] = unquote_to_bytes(bucket).decode()
        if key:
            labels["Key"] = unquote_to_bytes(key).decode()
    except UnicodeDecodeError:
        raise Malformed("Couldn't parse the specified URI.", code="InvalidURI") from None
    return labels
