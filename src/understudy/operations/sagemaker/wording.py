"""AWS's words for what goes wrong, and the retry around compare-and-set.

Owns the texts that clients compare with (``Could not find endpoint``, ``Cannot create already existing``).

Source: saved tracebacks of AWS's example notebooks; the waiters of botocore, which read the code
``ValidationException`` of a missing endpoint as "deleted".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from understudy.core.errors import ApiError, Conflict, ValidationException

R = TypeVar("R")

MODEL, CONFIG, ENDPOINT = "model", "endpoint configuration", "endpoint"
EXPERIMENT = "inference experiment"

_ATTEMPTS = 20  # one caller loses to others at most so often in a row before it is told to come back


def could_not_find(what: str, arn: str) -> ValidationException:
    """A resource that is not there."""
    return ValidationException(f'Could not find {what} "{arn}".')


def already_exists(what: str, arn: str) -> ValidationException:
    """A name that is taken."""
    return ValidationException(f'Cannot create already existing {what} "{arn}".')


def in_progress(arn: str) -> ValidationException:
    """An endpoint that another operation is changing."""
    return ValidationException(f'Cannot update in-progress endpoint "{arn}".')


def not_supported(what: str) -> ValidationException:
    """A member that AWS has and this version does not carry out: refused, never ignored."""
    return ValidationException(f"{what} is not supported yet by this version of Understudy.")


def until_agreed(attempt: Callable[[], R]) -> R:
    """Run a read-check-commit again for as long as somebody else's commit came between.

    Args:
        attempt: Reads afresh each time, so that it sees, and may refuse, what the other did.
    Raises:
        ApiError: 503, the record kept changing.
    """
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except Conflict:
            continue
    raise ApiError(
        "The resource is being changed by others all the time; try again.",
        code="ServiceUnavailable",
        status=503,
    )
