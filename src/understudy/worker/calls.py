"""What passes between the I/O loop and a model: calls in, answers out, and the Handler protocol.

Owns the vocabulary only. Refuses sockets and models.

Main names: ``Call``, ``Answer``, ``Refusal``, ``LoadFailure``, ``Handler``, ``answer_each``.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from .memory import note_memory_error
from .tracebacks import log_traceback
from .wire import RequestHead, ResponseHead, encode_response_head

MIRRORED_HEADER = "X-Understudy-Mirrored"  # "true" on a shadow's copy: user code can leave effects out
MAX_ANSWER_BYTES = 64 << 20  # of one whole answer: routers refuse far smaller ones
TEXT_HEAD = encode_response_head(ResponseHead(content_type="text/plain; charset=utf-8"))


class Call(NamedTuple):
    """One request to a model.

    Attributes:
        head: What the router said about it.
        body: The caller's bytes.
    """

    head: RequestHead
    body: bytes


class Answer(NamedTuple):
    """One answer of a model.

    Attributes:
        status: 200..299 for an answer, 4xx/5xx for the container's own refusal, 0 when its process is gone.
        head: Encoded ``ResponseHead``.
        body: All of it, or b"" when ``chunks`` gives it.
        chunks: The pieces of a streamed answer, drawn one after the other in the handler's thread.
    """

    status: int
    head: bytes
    body: bytes
    chunks: Iterator[bytes] | None = None


class Refusal(Exception):
    """A request that the container turns down: ``status`` and a message fit for the caller."""

    def __init__(self, status: int, message: str) -> None:
        """Remember status (4xx or 5xx) and message."""
        super().__init__(message)
        self.status = status
        self.message = message

    def as_answer(self) -> Answer:
        """Render it as the container's answer."""
        return Answer(self.status, TEXT_HEAD, self.message.encode("utf-8", "replace"))


class LoadFailure(Exception):
    """The model can't be loaded; the text says where and what to do.

    Attributes:
        reason: One short line, for status pages.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        """Remember the short reason and the longer detail."""
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Handler(Protocol):
    """A loaded model.

    Attributes:
        kind: What it is, e.g. ``xgboost``.
        note: One line for people: file, version, how it predicts.
        batch: ``answer`` gains from many calls at once; else it gets them one by one.
        inline: Fast enough (well under a millisecond a call) to run in the I/O loop itself.
        threads: How many calls may run at the same time, at least 1.
    """

    kind: str
    note: str
    batch: bool
    inline: bool
    threads: int

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Answer each call, in order; a call that fails is answered so and spoils no other."""
        ...

    def close(self) -> None:
        """Let go of child processes and the like."""
        ...


def failure_answer(error: BaseException) -> Answer:
    """Turn what a model raised into the container's answer, and put the traceback in the log.

    A refusal keeps its status; everything else is the model's own failure, 500, with the exception's type
    and message as the body, as the toolkits of SageMaker's containers answer.
    """
    if isinstance(error, Refusal):
        return error.as_answer()
    log_failure(error)
    return Answer(500, TEXT_HEAD, describe(error).encode("utf-8", "replace"))


def log_failure(error: BaseException) -> None:
    """Put the traceback of a call that failed in the log, and look whether there is memory for the next."""
    log_traceback(error)
    if isinstance(error, MemoryError):
        note_memory_error()


def describe(error: BaseException) -> str:
    """Say ``Type: message`` in one line's worth of text.

    >>> describe(KeyError("age"))
    "KeyError: 'age'"
    """
    return "".join(traceback.format_exception_only(type(error), error)).strip()


def answer_each(calls: Sequence[Call], answer_one: Callable[[Call], Answer]) -> list[Answer]:
    """Answer calls one by one; whatever one raises becomes that one's answer.

    KeyboardInterrupt and SystemExit of user code count as failures too: no request may end the worker.
    """
    answers = []
    for call in calls:
        try:
            answers.append(answer_one(call))
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001 - user code may raise anything
            answers.append(failure_answer(error))
    return answers


def warm_up(answer: Callable[[Call], Answer], columns: int | None) -> None:
    """Answer one row of zeros, so that no caller pays for what a library does at its first prediction.

    A model that can't take such a row says so in the log, and is as ready as before.

    Args:
        columns: How wide the model's rows are; None: not known, and nothing is done.
    """
    if columns is None:
        return
    try:
        answer(Call(RequestHead(content_type="text/csv"), b",".join([b"0"] * columns)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the artifact holds may raise anything
        say(f"warming up on a row of zeros: {describe(error)[:300]}")


def say(text: str) -> None:
    """Put one line into the instance's log."""
    sys.stderr.write(f"{text}\n")
