"""A verdict and what can make it invalid: plain values.

Owns the words PROMOTE, KEEP, HOLD, ROLLBACK and INVALID, and a verdict's JSON.  How one is reached is in
``analysis.verdicts``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Decision(StrEnum):
    """What to do with the treatment."""

    PROMOTE = "PROMOTE"
    KEEP = "KEEP"  # keep the control: the treatment is proven not to be worth it
    HOLD = "HOLD"  # nothing is proven yet
    ROLLBACK = "ROLLBACK"
    INVALID = "INVALID"  # the numbers don't mean what they seem to


@dataclass(frozen=True)
class Validity:
    """What is known about how the evidence came about; counts are of the evidence's whole time.

    Attributes:
        excluded_targeted: Requests that named their variant, or were overridden: not random, not counted.
        warmup_excluded_s: Seconds left out after the start of a fleet.
        label_maturity: Share of the mature exposures that have their label; None without labels.
        label_exposures: Those mature exposures: as many as were captured and collected when they were looked
            at, which may be fewer than the requests of that moment.
        immature_counted: Exposures younger than the label window that were counted all the same.
        config_changes: Changes of either arm's model or configuration that the evidence spans.
        repeated_units: Sticky assignment, but counted by request: one unit's requests are not independent.
        unlogged: Requests whose stage or share is not known.
        unfit_values: Of metrics of PutMetricData that are judged as rates, values other than 0 and 1.
    """

    excluded_targeted: int = 0
    warmup_excluded_s: float = 0.0
    label_maturity: float | None = None
    immature_counted: int = 0
    config_changes: int = 0
    repeated_units: bool = False
    unlogged: int = 0
    unfit_values: int = 0
    label_exposures: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Render all of it; what only some policies know of is left out where there is nothing."""
        rendered = asdict(self)
        if not self.unfit_values:
            del rendered["unfit_values"]
        if self.label_exposures is None:
            del rendered["label_exposures"]
        return rendered

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Validity:
        """Read what :meth:`to_json` wrote."""
        return cls(**data)


@dataclass(frozen=True)
class Verdict:
    """A decision with its reasons.

    Attributes:
        decision: What to do.
        decided_at: ISO 8601 time at which it was decided; None while HOLD.
        policy: The policy's name.
        alpha: ``promote`` and ``rollback``.
        reason: One sentence.
        evidence: One table per metric.
        validity: Checks and counts.
        would_change: What would change the decision.
        side_by_side: What other rules would have said of the same counts.
        replay: Id: a hash of everything that was decided from.
        harm_log10: Largest evidence of harm, log10, guardrails' number accounted for: 2 is a rollback at 1 %.
        noninferiority_log10: Smallest evidence of no harm among the guardrails, log10.
        promote_log10: Smallest evidence among all that PROMOTE needs, log10.
    """

    decision: Decision
    decided_at: str | None
    policy: str
    alpha: Mapping[str, float]
    reason: str
    evidence: tuple[Mapping[str, Any], ...]
    validity: Mapping[str, Any]
    would_change: Mapping[str, str]
    side_by_side: Mapping[str, Any] = field(default_factory=dict)
    replay: str = ""
    harm_log10: float = 0.0
    noninferiority_log10: float = 0.0
    promote_log10: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Render as the REST call and the command line show it."""
        return {
            "verdict": str(self.decision),
            "decided_at": self.decided_at,
            "policy": self.policy,
            "alpha": dict(self.alpha),
            "reason": self.reason,
            "evidence": [dict(one) for one in self.evidence],
            "validity": dict(self.validity),
            "would_change": dict(self.would_change),
            "side_by_side": dict(self.side_by_side),
            "replay": f"verdict replay {self.replay}",
        }
