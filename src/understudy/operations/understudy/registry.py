"""Every own call this version has."""

from __future__ import annotations

from understudy.operations.understudy import rollouts
from understudy.operations.understudy.calls import OwnCall

OWN_CALLS: tuple[OwnCall, ...] = (*rollouts.OWN_CALLS,)
