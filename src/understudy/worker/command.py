"""Models that bring their own HTTP server: ``/ping`` and ``/invocations`` on a port of this machine.

Owns starting the command, waiting for its first good ping, and passing requests on over kept-alive
connections. Refuses ambiguous framing in its answers. Its end is this worker's failure.

Main function: ``start_command``.

Source: the container contract of SageMaker hosting (GET /ping within 2 s, POST /invocations,
SAGEMAKER_BIND_TO_PORT); how long a start may take is the runtime's business, which ends this worker.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from .calls import (
    MAX_ANSWER_BYTES,
    MIRRORED_HEADER,
    TEXT_HEAD,
    Answer,
    Call,
    LoadFailure,
    Refusal,
    answer_each,
    describe,
)
from .children import Child
from .loading import whole_number
from .spec import Container
from .wire import STATUS_MODEL_GONE, RequestHead, ResponseHead, WireError, encode_response_head

_PING_TIMEOUT_S = 2.0
_PING_PAUSE_S = 0.05
_ANSWER_TIMEOUT_S = 3700.0  # above every timeout a router may grant
_PIECE_BYTES = 1 << 16


def start_command(container: Container, _vcpus: int) -> CommandHandler:
    """Start the container's command and wait until it answers ``/ping`` with 200.

    Raises:
        LoadFailure: no command, it can't be started, or it ended first (with its last words).
    """
    if not container.command:
        raise LoadFailure("no command", "The command loader needs the container's command.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        **container.environment,
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "PYTHONUNBUFFERED": "1",
    }
    try:
        child = Child(container.command, environment=environment, directory=container.model_dir)
    except OSError as error:
        raise LoadFailure(f"the command {container.command[0]} can't be started", describe(error)) from error
    while not _ping(port):
        if child.end() is not None:
            raise LoadFailure("the command ended before it answered /ping", child.last_words())
        time.sleep(_PING_PAUSE_S)
    threads = whole_number(container.environment, "UNDERSTUDY_WORKER_THREADS", 64)
    return CommandHandler(child, port, threads, f"{container.command[0]} on port {port}")


def _ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PING_TIMEOUT_S)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False  # not there yet, or it speaks nonsense: asked again until the runtime's patience ends
    finally:
        connection.close()


def headers_of(head: RequestHead) -> list[tuple[str, str]]:
    """List the headers that SageMaker passes to a container."""
    pairs = [
        ("Content-Type", head.content_type),
        ("Accept", head.accept),
        ("X-Amzn-SageMaker-Custom-Attributes", head.custom_attributes),
        ("X-Amzn-SageMaker-Inference-Id", head.inference_id),
        ("X-Amzn-SageMaker-Target-Model", head.target_model),
        ("X-Amzn-SageMaker-Session-Id", head.session_id),
        (MIRRORED_HEADER, "true" if head.is_mirrored else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def head_of_response(response: http.client.HTTPResponse) -> bytes:
    """Keep the headers that SageMaker passes back."""
    return encode_response_head(
        ResponseHead(
            content_type=response.getheader("Content-Type") or "application/octet-stream",
            custom_attributes=response.getheader("X-Amzn-SageMaker-Custom-Attributes") or "",
            new_session_id=response.getheader("X-Amzn-SageMaker-New-Session-Id") or "",
            closed_session_id=response.getheader("X-Amzn-SageMaker-Closed-Session-Id") or "",
        )
    )


def check_framing(response: http.client.HTTPResponse) -> None:
    """Refuse an answer whose end could be read in two ways.

    Raises:
        http.client.HTTPException: length and chunks together, lengths that differ, an unknown coding.
    """
    lengths = {value.strip() for value in response.headers.get_all("Content-Length") or []}
    codings = [value.strip().lower() for value in response.headers.get_all("Transfer-Encoding") or []]
    if len(lengths) > 1 or (lengths and codings) or codings not in ([], ["chunked"]):
        raise http.client.HTTPException("ambiguous framing in the model's answer")
    if any(not (length.isascii() and length.isdigit()) for length in lengths):
        raise http.client.HTTPException("a Content-Length that is not a number in the model's answer")


class CommandHandler:
    """A running HTTP server as a model; each thread keeps a connection to it."""

    kind = "command"
    batch = False
    inline = False

    def __init__(self, child: Child, port: int, threads: int, note: str) -> None:
        """Take over a child that has answered its first ping."""
        self._child = child
        self._port = port
        self.threads = threads
        self.note = note
        self._local = threading.local()

    def watch(self, died: Callable[[str], None]) -> None:
        """Tell when the server's process ends unasked."""
        self._child.watch(died)

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Pass calls on, one after the other in this thread."""
        return answer_each(calls, self._answer_one)

    def _answer_one(self, call: Call) -> Answer:
        try:
            response = self._post(call)
            check_framing(response)
            status, head = response.status, head_of_response(response)
            if not 200 <= status < 300 and not 400 <= status < 600:
                raise http.client.HTTPException(f"the model answered with status {status}")
            if call.head.wants_stream and 200 <= status < 300:
                return Answer(status, head, b"", self._pieces(response))
            body = response.read(MAX_ANSWER_BYTES + 1)
            if len(body) > MAX_ANSWER_BYTES:
                raise http.client.HTTPException("the model's answer is too long")
            if response.length:
                raise http.client.IncompleteRead(body, response.length)
        except WireError as error:
            self._forget()
            return Answer(500, TEXT_HEAD, f"The model's headers can't be passed on: {error}".encode())
        except ValueError as error:
            self._forget()
            raise Refusal(400, f"A header can't be passed on: {error}") from error
        except OSError as error:
            self._forget()
            return Answer(STATUS_MODEL_GONE, TEXT_HEAD, f"The model's server is gone: {error}".encode())
        except http.client.HTTPException as error:
            self._forget()
            if isinstance(error, http.client.IncompleteRead):
                return Answer(STATUS_MODEL_GONE, TEXT_HEAD, b"The model's server broke off its answer.")
            return Answer(
                500, TEXT_HEAD, f"The model's server can't be understood: {describe(error)}".encode()
            )
        return Answer(status, head, body)

    def _post(self, call: Call) -> http.client.HTTPResponse:
        kept = getattr(self._local, "connection", None)
        if kept is not None:
            try:
                return self._send(kept, call)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # It closed an idle connection just then, without a byte of an answer: a new one, once.
                self._forget()
        fresh = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_TIMEOUT_S)
        fresh.connect()
        fresh.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._local.connection = fresh
        return self._send(fresh, call)

    def _send(self, connection: http.client.HTTPConnection, call: Call) -> http.client.HTTPResponse:
        connection.putrequest("POST", "/invocations", skip_accept_encoding=True)
        for name, value in headers_of(call.head):
            connection.putheader(name, value.encode("utf-8", "surrogateescape"))
        connection.putheader("Content-Length", str(len(call.body)))
        connection.endheaders(call.body)
        return connection.getresponse()

    def _forget(self) -> None:
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            self._local.connection = None

    def _pieces(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        finished = False
        try:
            while True:
                piece = response.read1(_PIECE_BYTES)
                if not piece:
                    break
                yield piece
            if response.length:
                raise http.client.IncompleteRead(b"", response.length)
            finished = True
        finally:
            if not finished:
                self._forget()

    def close(self) -> None:
        """End the server, in grace."""
        self._child.close()
