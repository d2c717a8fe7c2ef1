"""CloudWatch alarms as records: what was asked for and the state they are in.

Owns the record, the names of its states, and the action that is to be carried out because of one
(:class:`AlarmAction`, kept until it is done so that a crash loses none).

Source: PutMetricAlarm, PutCompositeAlarm and DescribeAlarms in CloudWatch's API reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from understudy.core.names import Place


class AlarmState(StrEnum):
    """StateValue, as CloudWatch spells it."""

    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


# The member of a request that lists what to do in a state.
ACTIONS_OF = {
    AlarmState.OK: "OKActions",
    AlarmState.ALARM: "AlarmActions",
    AlarmState.INSUFFICIENT_DATA: "InsufficientDataActions",
}


@dataclass(frozen=True)
class Alarm:
    """One metric alarm or composite alarm.

    Attributes:
        request: PutMetricAlarm's or PutCompositeAlarm's members by wire names, defaults filled in.
        composite: It was made by PutCompositeAlarm.
        state_updated_at_s: When the state was last looked at and set or confirmed by a change.
        state_transitioned_at_s: When StateValue last changed.
        configured_at_s: When the alarm was put; a put of the same name keeps the state.
        reason_data: StateReasonData, before it is rendered as JSON.
        suppressed_by: Of a composite alarm whose actions wait: ``WaitPeriod``, ``ExtensionPeriod`` or
            ``Alarm``, as ActionsSuppressedBy.
        suppressed_at_s: When that began.
        hand_set_at_s: When SetAlarmState last set the state.
    """

    KIND: ClassVar[str] = "alarm"
    name: str
    arn: str
    request: dict[str, Any]
    composite: bool
    configured_at_s: float
    state: AlarmState = AlarmState.INSUFFICIENT_DATA
    reason: str = "Unchecked: Initial alarm creation"
    reason_data: dict[str, Any] = field(default_factory=dict)
    state_updated_at_s: float = 0.0
    state_transitioned_at_s: float = 0.0
    suppressed_by: str | None = None
    suppressed_at_s: float = 0.0
    hand_set_at_s: float = 0.0

    @property
    def created_at_s(self) -> float:
        """What listings by time go by; CloudWatch tells no other time of an alarm's making."""
        return self.configured_at_s

    @property
    def modified_at_s(self) -> float:
        """The later of the last put and the last change of state."""
        return max(self.configured_at_s, self.state_updated_at_s)

    @property
    def status(self) -> str:
        """The state, so that records can be queried by it."""
        return self.state.value


@dataclass(frozen=True)
class AlarmAction:
    """A message on its way to a webhook: intent before effect.

    Attributes:
        name: Unique for ever; receivers see it as ``MessageId``.
        url: Where it is sent.
        message: The body, before it is rendered as JSON.
        due_at_s: When to try (again).
        attempts: Tries that failed so far.
    """

    KIND: ClassVar[str] = "alarm-action"
    name: str
    alarm_name: str
    alarm_arn: str
    composite: bool
    url: str
    message: dict[str, Any]
    created_at_s: float
    due_at_s: float
    attempts: int = 0

    @property
    def modified_at_s(self) -> float:
        """When it is due."""
        return self.due_at_s


def alarm_arn(place: Place, name: str) -> str:
    """Render the ARN of an alarm.

    >>> alarm_arn(Place(), "errors")
    'arn:aws:cloudwatch:us-east-1:123456789012:alarm:errors'
    """
    return f"arn:aws:cloudwatch:{place.region}:{place.account_id}:alarm:{name}"


def alarm_name_of(name_or_arn: str) -> str:
    """Return the name in an alarm's ARN; a plain name is returned as it is.

    >>> alarm_name_of("arn:aws:cloudwatch:us-east-1:123456789012:alarm:a:b"), alarm_name_of("a")
    ('a:b', 'a')
    """
    parts = name_or_arn.split(":", 6)
    return parts[6] if len(parts) == 7 and parts[0] == "arn" and parts[5] == "alarm" else name_or_arn
