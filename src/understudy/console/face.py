"""The console: ``/console``, a face for people in a browser.

Owns its paths: the page, its files, and the JSON that pages ask for below ``/console/api``.  Pages are
clients of the API: what they read and change goes through the operations that boto3 calls, with the same
validation (:mod:`understudy.console.allowed` lists which).  Refuses whoever is not signed in, changing
requests without the session's token or from another site, and every change where the console is read-only.

Main type: :class:`ConsoleFace`.
"""

from __future__ import annotations

import asyncio
import http.client
import ipaddress
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from understudy import __version__
from understudy.console import captures, reads
from understudy.console.allowed import READS, WRITES, only_asks
from understudy.console.answers import BadRequest, gzipped, json_answer, number, refusal, secured, text
from understudy.console.files import FOR_EVER, ConsoleFile, ConsoleFiles
from understudy.console.invoking import Invoker
from understudy.console.live import Live, TooManyViewers
from understudy.console.sessions import (
    COOKIE,
    SESSION_S,
    Session,
    Sessions,
    TooManyFailures,
    WrongKey,
    token_fits,
)
from understudy.core.errors import ApiError
from understudy.operations.services import Services

ROOT = "/console"
CSRF_HEADER = "x-understudy-csrf"
MAX_BODY_BYTES = 8 << 20
MOST_ANSWERS = 20

log = logging.getLogger(__name__)

Call = Callable[[str, str, bytes], tuple[int, bytes]]
OwnCall = Callable[[str, str, bytes], tuple[int, dict[str, Any]]]


@dataclass(frozen=True)
class ConsoleFace:
    """The ASGI application.

    Attributes:
        mode: ``on``, ``readonly`` or ``off``.
        call: Carries out one operation of the API: service, name, JSON; returns status and JSON.
        own_call: Carries out one of Understudy's own calls: method, path and query, JSON; returns status and
            document.
        describe: State of processes, endpoints and instances.
        time_scale: Clock seconds per real second.
        threads: Where everything that reads or changes runs.
    """

    mode: str
    files: ConsoleFiles
    sessions: Sessions
    services: Services
    call: Call
    own_call: OwnCall
    describe: Callable[[], dict[str, Any]]
    live: Live
    invoker: Invoker
    time_scale: float
    threads: ThreadPoolExecutor

    def close(self) -> None:
        """Let the threads end once what they have in hand is done."""
        self.threads.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        try:
            response = await self._serve(request)
        except ClientDisconnect:
            return
        except (BadRequest, ApiError) as error:
            response = refusal(error)
        except Exception:
            # The last line of defence, as in the face for boto3: the page says "internal error", the log why.
            log.exception("console: %s %s failed", request.method, scope["path"])
            response = refusal(ApiError("An internal error occurred.", code="InternalFailure", status=500))
        secured(response)
        await response(scope, receive, send)

    # --- ways --------------------------------------------------------------------------------------

    async def _serve(self, request: Request) -> Response:
        path = request.scope["path"].removeprefix(ROOT)
        if self.mode == "off":
            message = "The console is switched off; understudy serve --console on serves it."
            return Response(message, 404, media_type="text/plain")
        if self.sessions.open and not _is_local(request.headers):
            # Without signatures a foreign name that leads here must not act for whoever browses it.
            raise ApiError("This server is for this machine only.", code="AccessDenied", status=403)
        if path.startswith("/static/"):
            version, _, name = path.removeprefix("/static/").partition("/")
            file = self.files.find(version, name)
            return Response("", 404) if file is None else _send_file(request, file)
        if path.startswith("/api/"):
            return await self._api(request, path.removeprefix("/api/"))
        if request.method not in ("GET", "HEAD"):
            return Response("", 405, headers={"allow": "GET, HEAD"})
        return self._page(request, path)

    def _page(self, request: Request, path: str) -> Response:
        """Send the page, with the session of whoever asks."""

        def page(told: dict[str, Any]) -> Response:
            body = self.files.page_at(path, told)
            return gzipped(request, Response(body, media_type="text/html; charset=utf-8"))

        return self._tell_session(request, self.sessions.read(request.cookies.get(COOKIE)), page)

    async def _api(self, request: Request, path: str) -> Response:
        session = self.sessions.read(request.cookies.get(COOKIE))
        if path == "session" and request.method == "GET":
            return self._tell_session(request, session)
        if path == "sign-in" and request.method == "POST":
            return await self._sign_in(request)
        if session is None:
            raise ApiError("Sign in first.", code="NotSignedIn", status=401)
        if request.method == "POST" or (request.method in ("PUT", "DELETE") and path.startswith("own/")):
            _refuse_forged(request, session)
            return await self._post(request, path, session)
        if request.method != "GET":
            return Response("", 405, headers={"allow": "GET, POST"})
        if path == "live":
            return await self._watch(request)
        if path.startswith("own/"):
            return await self._own(request, "GET", path, b"")
        reader = self._readers().get(path)
        if reader is None:
            raise ApiError(f"The console has no {path}.", code="NotFound", status=404)
        found = await self._in_thread(reader, request.query_params)
        return gzipped(request, json_answer(found))

    async def _post(self, request: Request, path: str, session: Session) -> Response:
        if path == "sign-out":
            self.sessions.sign_out(session)
            response = json_answer({})
            response.delete_cookie(COOKIE, path=ROOT)
            return response
        body = await _body(request)
        if path == "invoke":
            self._refuse_change()
            return json_answer(await self._in_thread(self._invoke, body))
        if path.startswith("own/"):
            if not only_asks(request.method, path):
                self._refuse_change()
            return await self._own(request, request.method, path, body)
        kind, _, rest = path.partition("/")
        service, _, operation = rest.partition("/")
        if kind != "call" or (service, operation) not in READS | WRITES:
            raise ApiError(f"The console does not call {rest or path}.", code="NotFound", status=404)
        if (service, operation) in WRITES:
            self._refuse_change()
        status, answer = await self._in_thread(self.call, service, operation, body)
        return gzipped(request, Response(answer, status, media_type="application/json"))

    async def _own(self, request: Request, method: str, path: str, body: bytes) -> Response:
        """Carry out one of Understudy's own calls (docs/rest.md): GET reads, others change."""
        raw_path = request.scope["raw_path"].decode("ascii", "replace")
        target = raw_path.partition(f"{ROOT}/api/own/")[2]
        query = request.scope["query_string"].decode("ascii", "replace")
        status, told = await self._in_thread(
            self.own_call, method, f"{target}?{query}" if query else target, body
        )
        if status >= 400:
            told = {"code": told.get("__type", "Error"), "message": told.get("message", "")}
        return gzipped(request, json_answer(told, status))

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)

    def _refuse_change(self) -> None:
        if self.mode == "readonly":
            raise ApiError(
                "The console is read-only (understudy serve --console readonly). Use boto3 or the CLI.",
                code="AccessDeniedException",
                status=403,
            )

    # --- sessions ----------------------------------------------------------------------------------

    def _tell_session(
        self,
        request: Request,
        session: Session | None,
        answer: Callable[[dict[str, Any]], Response] = json_answer,
    ) -> Response:
        """Say who is signed in, and what the page must know of the server."""
        cookie = None
        if session is None and self.sessions.open:
            session, cookie = self.sessions.begin_open()
        told: dict[str, Any] = {"signed_in": session is not None, "version": __version__, "mode": self.mode}
        if session is not None:
            told |= {
                "csrf": session.token,
                "access_key_id": session.access_key_id,
                "open": self.sessions.open,
                "now_s": self.services.clock.now_s(),
                "time_scale": self.time_scale,
                "region": self.services.place.region,
                "account_id": self.services.place.account_id,
                "role_arn": self.services.place.role_arn,
                "endpoint_url": self.services.endpoint_url,
            }
        response = answer(told)
        if cookie is not None:
            _set_cookie(request, response, cookie)
        return response

    async def _sign_in(self, request: Request) -> Response:
        _refuse_other_site(request)
        try:
            told = msgspec.json.decode(await _body(request), type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise BadRequest("Send access_key_id and secret_access_key as JSON.") from None
        try:
            session, cookie = self.sessions.sign_in(
                told.get("access_key_id", "").strip(), told.get("secret_access_key", "").strip()
            )
        except TooManyFailures as flood:
            error = ApiError(str(flood), code="TooManyRequests", status=429)
            response = refusal(error)
            response.headers["retry-after"] = str(flood.retry_after_s)
            return response
        except WrongKey:
            raise ApiError(
                "That is no access key of this server, or not its secret.", code="WrongKey", status=403
            ) from None
        response = self._tell_session(request, session)
        _set_cookie(request, response, cookie)
        return response

    # --- reads -------------------------------------------------------------------------------------

    def _readers(self) -> dict[str, Callable[[Mapping[str, str]], Any]]:
        return {
            "status": lambda _: {
                **self.describe(),
                "tests": reads.unfinished_tests(self.services.records),
                "rollouts": reads.rollouts_under_way(self.services.records, self.services.clock.now_s()),
            },
            "statistics": self._statistics,
            "lineage": lambda _: reads.lineage(self.services.records, self.services.objects, self.describe()),
            "events": self._events,
            "answers": self._answers,
            "captures": self._captures,
            "differences": self._differences,
        }

    def _statistics(self, query: Mapping[str, str]) -> Any:
        start_s, end_s = _window(query)
        variants = [name for name in text(query, "variants").split(",") if name]
        if not 1 <= len(variants) <= 20:
            raise BadRequest("variants: name 1 to 20 of them, separated by commas.")
        return reads.window_statistics(
            self.services.series,
            text(query, "endpoint"),
            variants,
            start_s,
            end_s,
            self.services.clock.now_s(),
        )

    def _answers(self, query: Mapping[str, str]) -> Any:
        """Carry out several own calls that read, each with its status: a refusal is an answer to show."""
        paths = text(query, "paths").split("\n")
        if len(paths) > MOST_ANSWERS:
            raise BadRequest(f"paths: name at most {MOST_ANSWERS} of them, one a line.")
        found = (self.own_call("GET", path, b"") for path in paths)
        return {"answers": [{"status": status, "told": told} for status, told in found]}

    def _events(self, query: Mapping[str, str]) -> Any:
        arn = text(query, "arn")
        limit = int(number(query, "limit", 1, 500, default=100))
        return {"events": reads.newest_events(self.services.records, arn, limit)}

    def _captures(self, query: Mapping[str, str]) -> Any:
        endpoint = text(query, "endpoint")
        start_s, end_s = _window(query)
        destination = query.get("destination") or captures.find_destination(self.services.records, endpoint)
        if destination is None:
            return {"destination": None, "records": []}
        return captures.browse(
            self.services.objects,
            destination,
            endpoint,
            [name for name in text(query, "variants").split(",") if name],
            start_s=start_s,
            end_s=end_s,
            now_s=self.services.clock.now_s(),
            inference_id=query.get("inference_id") or None,
            limit=int(number(query, "limit", 1, 500, default=50)),
        )

    def _differences(self, query: Mapping[str, str]) -> Any:
        endpoint = text(query, "endpoint")
        start_s, end_s = _window(query)
        destination = query.get("destination") or captures.find_destination(self.services.records, endpoint)
        if destination is None:
            raise BadRequest(f"Endpoint {endpoint} captures nothing now; name the destination of a capture.")
        threshold = number(query, "threshold", -1e300, 1e300) if query.get("threshold") else None
        return captures.differing(
            self.services.objects,
            destination,
            endpoint,
            (text(query, "production"), text(query, "candidate")),
            start_s=start_s,
            end_s=end_s,
            now_s=self.services.clock.now_s(),
            threshold=threshold,
        )

    def _invoke(self, body: bytes) -> dict[str, Any]:
        try:
            wanted = msgspec.json.decode(body, type=dict[str, str])
        except msgspec.MsgspecError:
            raise BadRequest("Send endpoint and body as JSON.") from None
        text(wanted, "endpoint")
        try:
            return self.invoker.invoke(wanted)
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(
                f"The endpoint's address can't be reached: {error}", code="Unreachable", status=502
            ) from error
        except ValueError as error:
            raise BadRequest(f"This can't be sent: {error}.") from error

    # --- live --------------------------------------------------------------------------------------

    async def _watch(self, request: Request) -> Response:
        events = self.live.watch(request.query_params.get("endpoint"))
        try:
            first = await anext(events)
        except TooManyViewers:
            raise ApiError("Too many pages watch this server.", code="TooManyRequests", status=503) from None

        async def all_events() -> Any:
            try:
                yield first
                async for event in events:
                    yield event
            finally:
                await events.aclose()  # type: ignore[attr-defined]

        return StreamingResponse(
            all_events(), media_type="text/event-stream", headers={"cache-control": "no-store"}
        )


def is_signed(scope: Scope) -> bool:
    """Tell whether a request below ``/console`` is an S3 client's, about a bucket of that name."""
    if b"X-Amz-Signature=" in scope["query_string"]:
        return True
    return any(
        name == b"authorization" and value.startswith(b"AWS4-HMAC-SHA256") for name, value in scope["headers"]
    )


def _window(query: Mapping[str, str]) -> tuple[float, float]:
    start_s = number(query, "start_s", 0.0, 1e12)
    end_s = number(query, "end_s", 0.0, 1e12)
    if start_s >= end_s:
        raise BadRequest("start_s must be before end_s.")
    return start_s, end_s


def _send_file(request: Request, file: ConsoleFile) -> Response:
    headers = {"etag": file.etag, "cache-control": FOR_EVER, "vary": "accept-encoding"}
    if request.headers.get("if-none-match") == file.etag:
        return Response(None, 304, headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(file.packed, 200, headers, media_type=file.content_type)
    return Response(file.body, 200, headers, media_type=file.content_type)


def _set_cookie(request: Request, response: Response, cookie: str) -> None:
    response.set_cookie(
        COOKIE,
        cookie,
        max_age=int(SESSION_S),
        path=ROOT,
        httponly=True,
        samesite="strict",
        secure=request.headers.get("x-forwarded-proto", "") == "https",
    )


def _refuse_forged(request: Request, session: Session) -> None:
    _refuse_other_site(request)
    if not token_fits(session, request.headers.get(CSRF_HEADER)):
        raise ApiError(
            "The request lacks the session's token. Load the page again.", code="BadToken", status=403
        )


def _refuse_other_site(request: Request) -> None:
    """Refuse what a page of another site sends: browsers say where a request comes from."""
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise ApiError("The request comes from another site.", code="ForeignSite", status=403)
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise ApiError("Send JSON.", code="UnsupportedMediaType", status=415)


def _is_local(headers: Headers) -> bool:
    host = headers.get("host", "")
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(request: Request) -> bytes:
    gathered = bytearray()
    async for piece in request.stream():
        gathered += piece
        if len(gathered) > MAX_BODY_BYTES:
            raise ApiError("The request is too large.", code="RequestEntityTooLarge", status=413)
    return bytes(gathered)
