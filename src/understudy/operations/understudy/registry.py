"""Every own call this version has."""

from __future__ import annotations

from understudy.operations.understudy import guardrails, outcomes, quality, rollouts, verdicts
from understudy.operations.understudy.calls import OwnCall

OWN_CALLS: tuple[OwnCall, ...] = (
    *guardrails.OWN_CALLS,
    *outcomes.OWN_CALLS,
    *quality.OWN_CALLS,
    *rollouts.OWN_CALLS,
    *verdicts.OWN_CALLS,
)
