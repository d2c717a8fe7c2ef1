"""The modes of Understudy alone, in the order of the report.

Main function: :func:`run_mode`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench import copying, modes, sick_shadows
from bench.measuring import WrongAnswer
from bench.modes import Bench, Row

MODES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "open": modes.open_loop,
    "ab": modes.ab,
    "signatures": modes.signatures,
    "overload": modes.overload,
    "bodies": modes.bodies,
    "crowd": modes.crowd,
    "variants": modes.variants,
    "endpoints": modes.endpoints,
    "served": modes.served,
    # Last: what was captured is still being filed when they are over: that takes CPU from the next.
    "shadow": copying.shadow,
    "capture": copying.capture,
    "together": copying.together,
    "sick": sick_shadows.sick,
}


def run_mode(name: str, bench: Bench) -> list[Row]:
    """Run one mode; one that breaks is named with its reason.

    Raises:
        WrongAnswer: nothing of this run may be shown.
    """
    bench.say(f"mode {name}")
    rows: list[Row] = []
    try:
        for row in MODES[name](bench):
            rows.append(row)
            per_s = row.figures.get("per_s")
            bench.say(f"  {row.setting}: " + (f"{per_s:,.0f}/s  " if per_s else "") + row.note)
    except WrongAnswer:
        raise
    except Exception as error:  # noqa: BLE001 - one mode's trouble is reported in its place
        rows.append(Row(name, "", {}, f"failed: {type(error).__name__}: {error}"))
        bench.say(f"  failed: {type(error).__name__}: {error}")
    return rows
