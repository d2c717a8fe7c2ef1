"""The ASGI application that boto3 talks to: every service of the control plane on one URL.

Owns the request path, :meth:`Gateway.perform`, which is one list of steps.  Refuses to answer anything but
a modelled error: no traceback, no page of HTML.  Main type: :class:`Gateway`.

Operations are plain functions and run in two bounded pools of threads, one for control, one for S3,
so that slow uploads cannot keep DescribeEndpoint waiting.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from understudy.aws.bodies import (
    ClientGone,
    ComingBody,
    ObjectBody,
    Receive,
    Reception,
    WholeBody,
    drain,
    receive_whole,
    unfold,
)
from understudy.aws.catalog import GLOBAL_SERVICES, SIGNING_NAMES, Catalog
from understudy.aws.identify import DIRECTORY_BUCKETS, Origin, find_call, identify, query_service
from understudy.aws.messages import MAX_CONTROL_BODY_BYTES, Answer, BodySource, Call, HttpRequest, Parameters
from understudy.aws.protocols.json import dump
from understudy.aws.protocols.query import parse_form
from understudy.aws.rendering import parse_call, render_failure, render_result
from understudy.aws.s3_routes import S3Routes
from understudy.aws.validation import validate
from understudy.core.errors import ApiError, NotImplementedOperation
from understudy.core.ports import Clock
from understudy.core.signing import SignatureFailure, SignedRequest, Verified, verify
from understudy.operations.services import Operation, Services

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

SEND_BLOCK_BYTES = 256 * 1024
# Verified like any other, so that the answer "not implemented" is not one about signatures.
_ALSO_SIGNED_FOR = {"s3": (DIRECTORY_BUCKETS,)}

log = logging.getLogger(__name__)


class Gateway:
    """The face for boto3.

    Args:
        services: Handed to every operation.
        operations: By (botocore service name, operation name).
        credentials: Returns the secrets by access key id; called per request, so keys can change.
        auth: ``sigv4``, or ``none`` to take every request as it comes.
        signing_clock: Real time for signatures, where ``services.clock`` is scaled; that clock by default.
        control_threads: Operations of all services but S3 at a time.
        object_threads: S3 operations at a time.
        waiting_limit: Requests in hand, running or queued, before more are refused with 503.
    """

    def __init__(
        self,
        services: Services,
        operations: Mapping[tuple[str, str], Operation],
        credentials: Callable[[], Mapping[str, str]],
        auth: Literal["sigv4", "none"] = "sigv4",
        *,
        signing_clock: Clock | None = None,
        control_threads: int = 16,
        object_threads: int = 32,
        waiting_limit: int = 512,
    ) -> None:
        self._services = services
        self._operations = operations
        self._credentials = credentials
        self._auth = auth
        self._clock = signing_clock or services.clock
        self._catalog = Catalog()
        self._s3_routes: S3Routes | None = None
        self._control_pool = ThreadPoolExecutor(control_threads, "aws-control")
        self._object_pool = ThreadPoolExecutor(object_threads, "aws-object")
        self._waiting_limit = waiting_limit
        self._in_hand = 0

    def close(self) -> None:
        """Let the threads end once what they have in hand is done."""
        self._control_pool.shutdown(wait=False)
        self._object_pool.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection scope: HTTP, or the lifespan of a stand-alone server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1003})

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                self.close()
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read what must be read here, hand the steps to a thread, send the answer."""
        request = HttpRequest(
            scope["method"], scope["raw_path"], scope["query_string"], tuple(scope["headers"])
        )
        request_id = self._new_request_id()
        loop = asyncio.get_running_loop()
        body = Reception(receive)
        origin: Origin | None = None
        self._in_hand += 1
        try:
            try:
                origin = identify(request)
                self._refuse_overload()
                source: ComingBody | WholeBody
                if origin.service == "s3":
                    source, pool = ComingBody(body, loop), self._object_pool
                else:
                    source = WholeBody(await receive_whole(body, MAX_CONTROL_BODY_BYTES))
                    pool = self._control_pool
            except ApiError as error:
                answer = render_failure(self._catalog, origin, request, error, request_id)
            else:
                answer = await loop.run_in_executor(pool, self.perform, request, origin, source, request_id)
            if not await drain(request, body):
                answer.headers["connection"] = "close"
            await self._send(request, answer, request_id, receive, send)
        except ClientGone:
            log.debug("request %s: the client hung up", request_id)
        finally:
            self._in_hand -= 1

    def perform(
        self, request: HttpRequest, origin: Origin, source: ComingBody | WholeBody, request_id: str
    ) -> Answer:
        """Take one request through all steps; runs in a thread.

        Args:
            origin: What :func:`identify` said.
        Returns:
            The answer, errors included.
        Raises:
            ClientGone: nobody waits for one.
        """
        try:
            origin, form = self._read_form(origin, request, source)
            verified = self._authenticate(origin, request, source)
            call = self._find(origin, request, form)
            operation = self._choose(call)
            body = self._open_body(call, request, source, verified)
            return self._carry_out(call, operation, request, body, request_id)
        except ApiError as error:
            return render_failure(self._catalog, origin, request, error, request_id)
        except ClientGone:
            raise
        except Exception:
            log.exception("request %s: %s %s failed", request_id, origin.service, origin.operation)
            failure = ApiError(
                f"An internal error occurred; the server's log has it under request id {request_id}.",
                code="InternalError" if origin.service == "s3" else "InternalFailure",
                status=500,
            )
            return render_failure(self._catalog, origin, request, failure, request_id)

    def perform_json(self, service: str, operation: str, body: bytes) -> tuple[int, bytes]:
        """Take one JSON call through the same steps but the signature's: the caller has checked who asks.

        Args:
            service: botocore's name of a service that speaks JSON.
            body: Parameters as the wire has them.
        Returns:
            HTTP status and JSON.  Errors are ``{"code": ..., "message": ...}``.
        """
        request = HttpRequest("POST", b"/", b"", ())
        request_id = self._new_request_id()
        try:
            model = self._catalog.operation(service, operation)
            if model is None:
                raise NotImplementedOperation(service, operation)
            call = Call(service, operation, "json", model)
            source = WholeBody(body)
            answer = self._carry_out(call, self._choose(call), request, source, request_id)
        except ApiError as error:
            return error.status, dump({"code": error.code, "message": error.message})
        except Exception:
            log.exception("request %s: %s %s failed", request_id, service, operation)
            message = f"An internal error occurred; the server's log has it under request id {request_id}."
            return 500, dump({"code": "InternalFailure", "message": message})
        assert isinstance(answer.body, bytes)  # JSON answers are whole
        return answer.status, answer.body

    # --- the steps ---------------------------------------------------------------------------------

    def _carry_out(
        self, call: Call, operation: Operation, request: HttpRequest, body: BodySource, request_id: str
    ) -> Answer:
        """Read, check, do, answer."""
        parameters = parse_call(call, request, body)
        self._settle(call, request, body, parameters)
        validate(call.service, call.model.input_shape, parameters)
        result = operation(self._services, parameters)
        return render_result(call, parameters, result, request_id)

    def _read_form(
        self, origin: Origin, request: HttpRequest, source: ComingBody | WholeBody
    ) -> tuple[Origin, dict[str, str]]:
        """Read a query-protocol form, whose Version says whose request it is."""
        if origin.protocol != "query":
            return origin, {}
        body = unfold(request, source.read(MAX_CONTROL_BODY_BYTES)) if isinstance(source, WholeBody) else b""
        form = parse_form(request.raw_query, body)
        return Origin(query_service(form, request), "query", form.get("Action", "")), form

    def _authenticate(
        self, origin: Origin, request: HttpRequest, source: ComingBody | WholeBody
    ) -> Verified | None:
        """Check the signature; an S3 body is held to its claim later, as it streams."""
        if self._auth == "none":
            return None
        body_sha256 = hashlib.sha256(source.data).hexdigest() if isinstance(source, WholeBody) else None
        signed = SignedRequest(
            request.method, request.raw_path, request.raw_query, request.headers, body_sha256
        )
        region = self._services.place.region
        authorization = request.header("authorization") or ""
        if origin.service in GLOBAL_SERVICES and "/us-east-1/" in authorization + "/".join(
            _presigned_scope(request)
        ):
            region = "us-east-1"
        try:
            return verify(
                signed,
                self._credentials(),
                now_s=self._clock.now_s(),
                region=region,
                services=(SIGNING_NAMES[origin.service], *_ALSO_SIGNED_FOR.get(origin.service, ())),
            )
        except SignatureFailure as failure:
            family = {"rest-xml": "s3", "query": "query"}.get(origin.protocol, "json")
            code, status = failure.wire(family)
            raise ApiError(failure.message, code=code, status=status) from None

    def _find(self, origin: Origin, request: HttpRequest, form: dict[str, str]) -> Call:
        """Name the operation."""
        if origin.service == "s3" and self._s3_routes is None:
            self._s3_routes = S3Routes(self._catalog.service("s3"))
        return find_call(origin, request, form, self._catalog, self._s3_routes)

    def _choose(self, call: Call) -> Operation:
        """Find the operation's function."""
        operation = self._operations.get((call.service, call.operation))
        if operation is None:
            raise NotImplementedOperation(call.service, call.operation)
        return operation

    def _open_body(
        self, call: Call, request: HttpRequest, source: ComingBody | WholeBody, verified: Verified | None
    ) -> BodySource:
        """Undo the encodings of the body: gzip (control) or aws-chunked (S3)."""
        if call.service == "s3":
            return ObjectBody(request, source, verified, call.model)
        assert isinstance(source, WholeBody)  # only S3's bodies are left to stream
        return WholeBody(unfold(request, source.data))

    def _settle(self, call: Call, request: HttpRequest, body: BodySource, parameters: Parameters) -> None:
        """Give S3's operations the object's own encoding and length, not those of the transfer."""
        if not isinstance(body, ObjectBody):
            return
        # From here on the body's checks write trailers into the parameters.
        parameters.update(body.parameters)
        body.parameters = parameters
        encoding = parameters.get("ContentEncoding")
        if encoding is not None:
            kept = [part.strip() for part in encoding.split(",") if part.strip().lower() != "aws-chunked"]
            if kept:
                parameters["ContentEncoding"] = ",".join(kept)
            else:
                del parameters["ContentEncoding"]
        decoded_length = request.header("x-amz-decoded-content-length")
        if decoded_length is not None and "ContentLength" in call.model.input_shape.members:
            if not (decoded_length.isascii() and decoded_length.isdigit() and len(decoded_length) <= 16):
                raise ApiError(
                    "x-amz-decoded-content-length is not a length.", code="InvalidArgument", status=400
                )
            parameters["ContentLength"] = int(decoded_length)

    # --- sending -----------------------------------------------------------------------------------

    async def _send(
        self, request: HttpRequest, answer: Answer, request_id: str, receive: Receive, send: Send
    ) -> None:
        answer.headers["x-amzn-requestid"] = request_id
        answer.headers["x-amz-request-id"] = request_id
        body = answer.body
        bodiless = request.method == "HEAD" or answer.status in (204, 304)
        if isinstance(body, bytes) and not bodiless:
            answer.headers["content-length"] = str(len(body))
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.raw_headers()})
        if bodiless or isinstance(body, bytes):
            if bodiless and not isinstance(body, bytes):
                await self._discard(body)
            await send({"type": "http.response.body", "body": b"" if bodiless else body})
            return
        await self._send_stream(body, request_id, receive, send)

    async def _send_stream(
        self, body: Iterable[bytes], request_id: str, receive: Receive, send: Send
    ) -> None:
        """Draw a body in a thread, block by block, and send it while the client listens."""
        loop = asyncio.get_running_loop()
        pieces = iter(body)
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            more = True
            while more:
                block, more = await loop.run_in_executor(self._object_pool, _draw, pieces)
                if gone.done():
                    log.debug("request %s: the client hung up while it was answered", request_id)
                    return
                await send({"type": "http.response.body", "body": block, "more_body": more})
        except Exception:
            log.exception("request %s: the answer broke off", request_id)
        finally:
            gone.cancel()
            await self._discard(pieces)
            if body is not pieces:
                await self._discard(body)

    async def _discard(self, pieces: Iterable[bytes]) -> None:
        """Close a body's generator, so that files behind it are closed now."""
        close = getattr(pieces, "close", None)
        if close is not None:
            await asyncio.get_running_loop().run_in_executor(self._object_pool, close)

    def _refuse_overload(self) -> None:
        if self._in_hand > self._waiting_limit:
            raise ApiError("Please reduce your request rate.", code="ServiceUnavailable", status=503)

    def _new_request_id(self) -> str:
        token = self._services.entropy.token(16)
        return f"{token[:8]}-{token[8:12]}-{token[12:16]}-{token[16:20]}-{token[20:]}"


def _presigned_scope(request: HttpRequest) -> list[str]:
    """Return the parts of a presigned URL's credential scope, unverified."""
    for pair in request.raw_query.split(b"&"):
        if pair.startswith(b"X-Amz-Credential="):
            return pair.decode("latin-1").replace("%2F", "/").replace("%2f", "/").split("/")
    return []


def _draw(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """Gather about a block from an iterator; False when that was the end."""
    gathered: list[bytes] = []
    total = 0
    for piece in pieces:
        gathered.append(bytes(piece))
        total += len(piece)
        if total >= SEND_BLOCK_BYTES:
            return b"".join(gathered), True
    return b"".join(gathered), False


async def _until_gone(receive: Receive) -> None:
    """Wait for the client to hang up."""
    while (await receive())["type"] != "http.disconnect":
        pass
