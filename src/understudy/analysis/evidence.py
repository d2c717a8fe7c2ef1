"""Evidence that one thing happens more often than another.

Owns :func:`excess_evidence`, an e-value: under "not more often" its expectation is at most 1, so that
``>= 1/alpha`` happens with probability at most alpha however often one looks (Ville's inequality).
Source: Ville 1939; mixtures of bets as in Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting", 2024.
"""

from __future__ import annotations

import math

_STEPS = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_WEIGHTS = (0.5, 1.0, 2.0, 4.0, 2.0, 1.0, 0.5, 0.5)


def excess_evidence(
    events: int, control_events: int, share: float = 0.5, smallest_ratio: float = 1.5
) -> float:
    """Weigh the hypothesis that events are not more frequent than in the control.

    Args:
        events: Events seen, of all chances looked at.
        control_events: Events seen of the control's chances.
        share: Chances of ``events`` among all chances, in (0, 1); a half for pairs.
        smallest_ratio: Ratio of frequencies that is worth finding, > 1.

    Returns:
        Natural logarithm of the e-value.

    Valid for pairs at every look.  For two sets of independent chances it is valid at one look: given how
    many events there were, ``events`` is spread less than a binomial, and the e-value is convex in it
    (Hoeffding 1963, theorem 4).

    >>> round(excess_evidence(0, 0), 6), excess_evidence(20, 2) > math.log(20) > excess_evidence(20, 18)
    (0.0, True)
    """
    total = sum(_WEIGHTS)
    logs = []
    for step, weight in zip(_STEPS, _WEIGHTS, strict=True):
        ratio = smallest_ratio**step
        stake = math.log(1.0 - share + share * ratio)
        logs.append(math.log(weight / total) + events * math.log(ratio) - (events + control_events) * stake)
    largest = max(logs)
    return largest + math.log(sum(math.exp(one - largest) for one in logs))
