"""Why an instance could not be prepared: one exception whose text is fit for a FailureReason."""

from __future__ import annotations


class PreparationFailed(Exception):
    """Fetching the artifact or building the environment failed.

    Args:
        reason: For the caller: what failed, at which name, and what to do.
        log: Further lines for the instance's log stream; no secrets.
    """

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log = log


class Cancelled(Exception):
    """The instance was stopped while it was being prepared; nobody needs a reason."""
