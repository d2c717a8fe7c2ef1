"""CloudWatch alarms as records: what was asked for and the state they are in.

Source: PutMetricAlarm, PutCompositeAlarm and DescribeAlarms in CloudWatch's API reference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar


class AlarmState(StrEnum):
    """StateValue, as CloudWatch spells it."""

    OK = "OK"
    ALARM = "ALARM"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"


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
