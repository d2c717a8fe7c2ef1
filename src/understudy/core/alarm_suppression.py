"""Whether a composite alarm's actions wait for its suppressor.

Main function: :func:`suppression`, from one frozen snapshot to what holds the actions back now.

Source: "Composite alarm action suppression", Amazon CloudWatch User Guide.
"""

from __future__ import annotations

from dataclasses import dataclass

from understudy.core.alarms import AlarmState


@dataclass(frozen=True)
class SuppressionSnapshot:
    """What is known when a composite alarm is looked at.

    Attributes:
        transitioned: Its state has just changed.
        suppressed_by: What held its actions back so far; None: nothing, they are done or there were none.
        since_s: When that began.
        suppressor: State of the suppressor; None: there is no such alarm (any more).
        wait_s, extension_s: ActionsSuppressorWaitPeriod and ActionsSuppressorExtensionPeriod.
    """

    now_s: float
    transitioned: bool
    suppressed_by: str | None
    since_s: float
    suppressor: AlarmState | None
    wait_s: float
    extension_s: float


def suppression(snapshot: SuppressionSnapshot) -> str | None:
    """Say what holds the actions back; None: carry out what waits.

    A transition waits for the suppressor to go into ALARM (``WaitPeriod``), rests while it is (``Alarm``)
    and for a while after (``ExtensionPeriod``).

    >>> suppression(SuppressionSnapshot(10.0, True, None, 0.0, AlarmState.OK, 5.0, 5.0))
    'WaitPeriod'
    >>> suppression(SuppressionSnapshot(15.0, False, "WaitPeriod", 10.0, AlarmState.OK, 5.0, 5.0)) is None
    True
    """
    if not snapshot.transitioned and snapshot.suppressed_by is None:
        return None
    if snapshot.suppressor is AlarmState.ALARM:
        return "Alarm"
    by, since_s = snapshot.suppressed_by, snapshot.since_s
    if by is None or (snapshot.transitioned and by == "WaitPeriod"):
        by, since_s = "WaitPeriod", snapshot.now_s
    elif by == "Alarm":
        by, since_s = "ExtensionPeriod", snapshot.now_s
    limit_s = snapshot.wait_s if by == "WaitPeriod" else snapshot.extension_s
    return by if snapshot.now_s < since_s + limit_s else None
