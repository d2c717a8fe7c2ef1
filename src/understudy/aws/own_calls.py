"""The face for Understudy's own calls: JSON over ``/understudy/v1/...``, signed like SageMaker's.

Owns the path from an HTTP request to a function of ``operations.understudy`` and back.  Refuses to answer
anything but JSON: ``{"__type": code, "message": text}`` is an error, as AWS's JSON protocols write it.
Main class: :class:`OwnCalls`, an ASGI application.

Requests are signed for service ``sagemaker`` (Signature Version 4), so that whoever may call SageMaker may
call these and nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qsl, unquote

import msgspec

from understudy.aws.bodies import ClientGone, Receive, Reception, drain, receive_whole
from understudy.aws.messages import MAX_CONTROL_BODY_BYTES, HttpRequest
from understudy.core.errors import ApiError, ValidationException
from understudy.core.ports import Clock
from understudy.core.signing import SignatureFailure, SignedRequest, verify
from understudy.operations.services import Services
from understudy.operations.understudy.calls import ROOT, OwnCall, OwnRequest

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

THREADS = 8
WAITING_LIMIT = 256

log = logging.getLogger(__name__)


class OwnCalls:
    """Answers own calls.

    Args:
        services: Handed to every call.
        credentials: Returns the secrets by access key id.
        auth: ``sigv4``, or ``none`` to take every request as it comes.
        signing_clock: Real time, for signatures.
    """

    def __init__(
        self,
        services: Services,
        calls: Sequence[OwnCall],
        credentials: Callable[[], Mapping[str, str]],
        auth: str,
        signing_clock: Clock,
    ) -> None:
        self._services = services
        self._calls = tuple(calls)
        self._credentials = credentials
        self._auth = auth
        self._clock = signing_clock
        self._pool = ThreadPoolExecutor(THREADS, "own-calls")
        self._in_hand = 0

    def close(self) -> None:
        """Let the threads end once what they have in hand is done."""
        self._pool.shutdown(wait=False)

    def owns(self, path: str) -> bool:
        """Tell whether a path is one of ours."""
        return path.startswith(f"{ROOT}/")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one HTTP request."""
        request = HttpRequest(
            scope["method"], scope["raw_path"], scope["query_string"], tuple(scope["headers"])
        )
        body = Reception(receive)
        request_id = self._services.entropy.token(16)
        self._in_hand += 1
        try:
            try:
                if self._in_hand > WAITING_LIMIT:
                    raise ApiError("Please reduce your request rate.", code="ServiceUnavailable", status=503)
                data = await receive_whole(body, MAX_CONTROL_BODY_BYTES)
            except ApiError as error:
                status, answer = _failure(error)
            else:
                loop = asyncio.get_running_loop()
                status, answer = await loop.run_in_executor(
                    self._pool, self.perform, request, data, request_id
                )
            keep = await drain(request, body)
            await _send(request, status, answer, request_id, keep, send)
        except ClientGone:
            log.debug("request %s: the client hung up", request_id)
        finally:
            self._in_hand -= 1

    def perform(self, request: HttpRequest, data: bytes, request_id: str) -> tuple[int, dict[str, Any]]:
        """Take one request through all steps; runs in a thread.

        Returns:
            HTTP status and the document to answer, errors included.
        """
        return self._perform(request, data, request_id, lambda: self._authenticate(request, data))

    def perform_checked(self, method: str, target: str, data: bytes) -> tuple[int, dict[str, Any]]:
        """Take one call of somebody whose right was checked elsewhere.

        Args:
            target: Path and query below ``/understudy/v1/``, percent-encoded.
        """
        path, _, query = target.partition("?")
        request = HttpRequest(method, f"{ROOT}/{path}".encode(), query.encode(), ())
        return self._perform(request, data, self._services.entropy.token(16), lambda: None)

    def _perform(
        self, request: HttpRequest, data: bytes, request_id: str, authenticate: Callable[[], None]
    ) -> tuple[int, dict[str, Any]]:
        try:
            authenticate()
            call, labels = self._find(request)
            asked = OwnRequest(labels, _query(request), _object(data))
            call.check(asked)
            return 200, dict(call.answer(self._services, asked))
        except ApiError as error:
            return _failure(error)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, request.method, request.raw_path)
            return _failure(
                ApiError(
                    f"An internal error occurred; the server's log has it under request id {request_id}.",
                    code="InternalFailure",
                    status=500,
                )
            )

    def _authenticate(self, request: HttpRequest, data: bytes) -> None:
        if self._auth == "none":
            return
        signed = SignedRequest(
            request.method,
            request.raw_path,
            request.raw_query,
            request.headers,
            hashlib.sha256(data).hexdigest(),
        )
        try:
            verify(
                signed,
                self._credentials(),
                now_s=self._clock.now_s(),
                region=self._services.place.region,
                services=("sagemaker",),
            )
        except SignatureFailure as failure:
            code, status = failure.wire("json")
            raise ApiError(failure.message, code=code, status=status) from None

    def _find(self, request: HttpRequest) -> tuple[OwnCall, dict[str, str]]:
        """Name the call.

        Raises:
            ApiError: UnknownOperationException 404, or 405 where the path has other methods.
        """
        try:
            path = request.raw_path.decode("ascii").removeprefix(ROOT).strip("/")
            parts = tuple(unquote(part, errors="strict") for part in path.split("/"))
        except UnicodeDecodeError:
            raise ValidationException("The path is not UTF-8.") from None
        methods = []
        for call in self._calls:
            labels = call.match(parts)
            if labels is not None and call.method == request.method:
                return call, labels
            if labels is not None:
                methods.append(call.method)
        if methods:
            raise ApiError(
                f"This path takes {' and '.join(sorted(methods))}, not {request.method}.",
                code="UnknownOperationException",
                status=405,
            )
        raise ApiError(
            "Understudy has no such call; docs/rest.md lists them.",
            code="UnknownOperationException",
            status=404,
        )


def _query(request: HttpRequest) -> dict[str, str]:
    try:
        pairs = parse_qsl(
            request.raw_query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request.raw_query),
            errors="strict",
            max_num_fields=100,
        )
    except ValueError:  # UnicodeDecodeError is one
        raise ValidationException("The query can't be read.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        if name in query:
            raise ValidationException(f"Query parameter {name[:100]!r} is given twice.")
        query[name] = value
    return query


def _object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        return {}
    try:
        document = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValidationException(f"The body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise ValidationException("The body must be a JSON object.")
    return document


def _failure(error: ApiError) -> tuple[int, dict[str, Any]]:
    return error.status, {"__type": error.code, "message": error.message, **error.members}


async def _send(
    request: HttpRequest, status: int, answer: Mapping[str, Any], request_id: str, keep: bool, send: Send
) -> None:
    body = msgspec.json.encode(answer)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-amzn-requestid", request_id.encode()),
        (b"cache-control", b"no-store"),
    ]
    if "__type" in answer and status >= 400:
        headers.append((b"x-amzn-errortype", str(answer["__type"]).encode()))
    if not keep:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if request.method == "HEAD" else body})
