"""A container that is up while its model can't be loaded, as AWS's older XGBoost images behave.

Main class: ``BrokenHandler``.
"""

from __future__ import annotations

from collections.abc import Sequence

from .calls import Answer, Call, Refusal, say


class BrokenHandler:
    """Answers every request with 500 and the reason."""

    batch = True
    inline = True
    threads = 1

    def __init__(self, kind: str, message: str) -> None:
        """Remember what to say; it goes to the log too."""
        self.kind = kind
        self.note = message
        self._refusal = Refusal(500, message)
        say(message)

    def answer(self, calls: Sequence[Call]) -> list[Answer]:
        """Say so to each."""
        return [self._refusal.as_answer()] * len(calls)

    def close(self) -> None:
        """Nothing to let go of."""
