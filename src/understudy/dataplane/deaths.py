"""Bodies that killed workers: a request of death must not take down one worker after another.

Owns :class:`DeadlyBodies`.  A body that was with two workers when they died, with no success between, is
answered without trying it again for ``BLOCKED_S``.  Refuses to blame traffic that merely was there: one 2XX
answer clears a body.
"""

from __future__ import annotations

BLOCKED_S = 60.0
DEADLY = 2
MAX_BODIES = 4096

_Key = tuple[str, int, int]


class DeadlyBodies:
    """Recent deaths by body.  False while there are none, so that the usual path asks nothing."""

    def __init__(self) -> None:
        self._deaths: dict[_Key, tuple[int, float, str]] = {}  # how many, since when, of whom the last

    def __bool__(self) -> bool:
        return bool(self._deaths)

    def note(self, endpoint: str, body: bytes, instance_id: str, now_s: float) -> int:
        """Count that a worker died with this body in hand: once, however often it had it.

        Args:
            now_s: Monotonic.
        Returns:
            How many workers it has been with at their end.
        """
        key = (endpoint, len(body), hash(body))
        deaths, since_s, last = self._deaths.pop(key, (0, now_s, ""))
        if now_s - since_s > BLOCKED_S:
            deaths = 0
        elif instance_id == last:
            deaths -= 1
        while len(self._deaths) >= MAX_BODIES:
            del self._deaths[next(iter(self._deaths))]
        self._deaths[key] = (deaths + 1, now_s, instance_id)
        return deaths + 1

    def is_deadly(self, endpoint: str, body: bytes, now_s: float) -> bool:
        """Tell whether this body is not to be tried now."""
        deaths, since_s, _ = self._deaths.get((endpoint, len(body), hash(body)), (0, 0.0, ""))
        return deaths >= DEADLY and now_s - since_s <= BLOCKED_S

    def clear(self, endpoint: str, body: bytes) -> None:
        """Note that a model answered this body."""
        self._deaths.pop((endpoint, len(body), hash(body)), None)

    def expire(self, now_s: float) -> None:
        """Forget what is older than ``BLOCKED_S``."""
        for key in [key for key, (_, since_s, _) in self._deaths.items() if now_s - since_s > BLOCKED_S]:
            del self._deaths[key]
