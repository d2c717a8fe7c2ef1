"""A fast stream of uniform draws for choosing variants: splitmix64.

Refuses secrets: who sees a few draws can compute the rest.  Main function: :func:`splitmix64`.

Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
"""

from __future__ import annotations

from collections.abc import Callable

_MASK = (1 << 64) - 1


def splitmix64(seed: int) -> Callable[[], float]:
    """Return a function that draws from [0, 1) with 53 random bits.

    Args:
        seed: Any integer; its low 64 bits count.

    >>> draw = splitmix64(1)
    >>> all(0.0 <= draw() < 1.0 for _ in range(1000))
    True
    """
    state = seed & _MASK

    def draw() -> float:
        nonlocal state
        state = (state + 0x9E3779B97F4A7C15) & _MASK
        mixed = state
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((mixed ^ (mixed >> 31)) >> 11) * (1.0 / (1 << 53))

    return draw
