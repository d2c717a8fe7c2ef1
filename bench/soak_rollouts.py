"""``make soak``: rollouts under faults, to the end.  ``python -m bench.soak_rollouts --help``.

Parts, each chosen by name:

- ``updates``: updates of every kind in a random order under constant raw load without retries; no request may
  fail, none may be answered by a configuration that did not serve.
- ``kills``: the controller is killed at every registered failpoint, and again while it recovers, in each
  story that meets it; the endpoint must end in exactly one configuration, without a failed request, a
  leftover or a bake begun anew.
- ``crowd``: routers and workers are killed at random times; boto3 must see no failure.
- ``stops``: the server gets SIGTERM at a random moment of an update, and goes on with it when it is started.
- ``regressions``: versions that fail, are slow or can't be loaded are rolled back by their alarms; as many
  good ones are not.
- ``power``: the disk as it was at random moments; every acknowledged call is there after a restart.

Owns nothing but the order of things; what must hold is in :mod:`bench.rollout_world`.  Main function:
:func:`main`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bench.rollout_load import LoadProcess
from bench.rollout_world import (
    Served,
    at_rest,
    blue_green,
    guarded,
    percent,
    rolling,
    stamp_config,
    stamp_model,
    until,
)
from bench.soak_rollout_kills import ENVIRONMENTS, POLICIES, kills
from bench.soak_rollout_power import power
from bench.soak_rollout_regressions import put_alarm, regressions


def main(argv: list[str]) -> int:
    """Run the chosen parts; return 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_rollouts", description=__doc__)
    parser.add_argument("parts", nargs="*", help="see above; all of them when none is named")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--scale", type=int, default=60, help="of updates: how fast the server's clock goes")
    parser.add_argument("--crowd", type=int, default=20, help="rollouts with routers and workers killed")
    parser.add_argument("--stops", type=int, default=20, help="updates that SIGTERM interrupts")
    parser.add_argument("--regressions", type=int, default=60, help="bad versions, and as many good ones")
    parser.add_argument("--power", type=int, default=10, help="moments at which the power is cut")
    parser.add_argument("--failpoints", default="", help="only those whose name contains one of these: A,B")
    parser.add_argument("--stories", default="", help="only stories whose name contains this")
    parser.add_argument("--protocol", type=Path, help="of kills: note results here, skip what held there")
    parser.add_argument("--minutes", type=float, default=1e9, help="of kills: begin no story after so many")
    parser.add_argument(
        "--once",
        dest="twice",
        action="store_false",
        help="of kills: let the next controller recover in peace",
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {min(unknown)}; choose from {', '.join(PARTS)}")
    # Whoever ends it wants its servers to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    failed = 0
    for name in options.parts or PARTS:
        failed += PARTS[name](options)
    print(json.dumps({"failed": failed}))
    return 1 if failed else 0


def tell(**facts: Any) -> None:
    """Write one line of the protocol."""
    print(json.dumps(facts), flush=True)


ASKED_EVERY_S = 0.25  # during updates and between them: asking costs more than most updates do

# --- updates ---------------------------------------------------------------------------------------


def updates(options: argparse.Namespace) -> int:
    """Updates of every kind, one after the other."""
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        served = Served(Path(place), scale=options.scale, environments=ENVIRONMENTS)
        try:
            return _updates(served, dice, options.updates)
        finally:
            served.stop()


def _updates(served: Served, dice: random.Random, count: int) -> int:
    book = _Book(served)
    failed = 0
    with LoadProcess(served.port) as load:
        until(lambda: load.seen, "answers")
        for number in range(count):
            kind, to, play = book.draw(dice)
            mark, at_mark, began_s = len(load.failures), len(load.answers), time.monotonic()
            allowed = {book.serving} if to is None else {book.serving, to}
            if play():
                book.serving = str(to)
            ended_s = time.monotonic()
            start = len(load.answers)
            until(lambda start=start: len(load.answers) > start + 50, "answers after it")  # type: ignore[misc]
            seen = [(variant, body) for _, variant, body in load.answers[at_mark:]]
            facts = {
                "failed": len(load.failures) - mark,
                "misrouted": sum(
                    body not in allowed or variant != variant_of(body) for variant, body in seen
                ),
                "late": sum(body != book.serving for _, body in seen[-8:]),
            }
            failed += any(facts.values())
            book.updating.append((began_s, ended_s))
            seconds = round(ended_s - began_s, 2)
            first = load.failures[mark : mark + 2]
            tell(number=number, kind=kind, to=to, serves=book.serving, seconds=seconds, **facts, first=first)
            if number % 10 == 9:  # what it is like when nothing changes
                for _ in range(8):
                    at_rest(served.sagemaker)
                    time.sleep(ASKED_EVERY_S)
    p99_ms = _p99_ms(load.latencies_s, book.updating)
    tell(part="updates", requests=sum(load.seen.values()), failed=len(load.failures), p99_ms=p99_ms)
    return failed


def _p99_ms(
    latencies_s: Iterable[tuple[float, float]], updating: list[tuple[float, float]]
) -> dict[str, float]:
    """The 99th percentile during updates, in the steady state, and the one by the other."""
    found: dict[str, list[float]] = {"updating": [], "steady": []}
    for at_s, took_s in latencies_s:
        within = any(began_s <= at_s <= ended_s for began_s, ended_s in updating)
        found["updating" if within else "steady"].append(took_s)
    p99 = {name: sorted(values)[len(values) * 99 // 100] * 1e3 for name, values in found.items() if values}
    if len(p99) == 2:
        p99["ratio"] = p99["updating"] / p99["steady"]
    return {name: round(value, 2) for name, value in p99.items()}


def variant_of(stamp: str) -> str:
    """Which variant answers with a stamp: a promoted shadow keeps its name."""
    return "shadow" if stamp == "promoted" else "main"


class _Book:
    """What the endpoint serves, and what can be asked of it next."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.serving = "v1"
        self.updating: list[tuple[float, float]] = []
        client = served.client
        for stamp in ("v3", "shadowed", "promoted"):
            stamp_model(client, stamp)
        stamp_config(client, "v3", instances=3)
        # The same variant with a shadow beside it, and the shadow in production's place.
        stamp_config(client, "shadowed", shadow="promoted")
        stamp_config(client, "promoted", variants={"shadow": 1.0})
        for stamp in ("v1", "v2", "v3", "shadowed"):
            # A real alarm that trips without a failed request: the new version is called at all.
            put_alarm(client, f"{stamp}-called", stamp, "Invocations", "Sum", 0.0)

    def draw(self, dice: random.Random) -> tuple[str, str | None, Callable[[], bool]]:
        """Draw a kind of update, where it leads, and how it is done."""
        if self.serving == "promoted":
            # Its variant has another name: all at once is the only way.
            to = dice.choice(["v1", "v2", "v3", "shadowed"])
            return "shadow removed, all at once", to, lambda: self.update(to, POLICIES["all at once"])
        if self.serving == "shadowed" and dice.random() < 0.5:
            return "shadow promoted", "promoted", lambda: self.update("promoted", POLICIES["all at once"])
        to = dice.choice([one for one in ("v1", "v2", "v3", "shadowed") if one != self.serving])
        way = dice.choice(["forth", "forth", "back", "alarm", "plain", "weights"])
        if way == "weights":
            return way, None, lambda: _reweigh(self.served, dice)
        if way == "plain":
            return way, to, lambda: self.update(to, {})
        policy = dice.choice(sorted(POLICIES))
        kind = f"{policy}, {way}"
        if "shadowed" in (to, self.serving):
            kind += ", shadow added" if to == "shadowed" else ", shadow removed"
        if way == "forth":
            return kind, to, lambda: self.update(to, POLICIES[policy])
        if way == "back":
            return kind, to, lambda: self.update(to, POLICIES[policy], back=True)
        return kind, to, lambda: self.alarmed(to, LONG_BAKES[policy])

    def update(self, to: str, deployment: dict[str, Any], *, back: bool = False) -> bool:
        """Update; tell whether the new configuration serves."""
        given = {"DeploymentConfig": deployment} if deployment else {}
        self.served.sagemaker.update_endpoint(EndpointName="e", EndpointConfigName=to, **given)
        if back:
            until(lambda: self.served.bakes() > 0, "a bake", every_s=ASKED_EVERY_S)
            self.served.roll_back()
        found = at_rest(self.served.sagemaker, every_s=ASKED_EVERY_S)
        assert found["EndpointStatus"] == "InService", found
        assert (found["EndpointConfigName"] == to) is not back, found
        assert ("FailureReason" in found) is back, found
        return not back

    def alarmed(self, to: str, deployment: dict[str, Any]) -> bool:
        """Update to a version whose alarm trips as soon as it is called."""
        cloudwatch, name = self.served.client("cloudwatch"), f"{to}-called"
        until(
            lambda: cloudwatch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"] != "ALARM",
            "the alarm to be over",
            every_s=ASKED_EVERY_S,
        )
        self.served.sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName=to, DeploymentConfig=guarded(deployment, name)
        )
        found = at_rest(self.served.sagemaker, every_s=ASKED_EVERY_S)
        assert found["EndpointConfigName"] == self.serving and name in found["FailureReason"], found
        return False


LONG_BAKES: dict[str, dict[str, Any]] = {
    "all at once": blue_green("ALL_AT_ONCE", 600),
    "canary": blue_green("CANARY", 600, CanarySize=percent(20)),
    "linear": blue_green("LINEAR", 600, LinearStepSize=percent(50)),
    "rolling": rolling(600),
}


def _reweigh(served: Served, dice: random.Random) -> bool:
    wish = {
        "VariantName": "main",
        "DesiredWeight": dice.choice([0.5, 1.0, 3.0]),
        "DesiredInstanceCount": dice.choice([1, 2, 3]),
    }
    served.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="e", DesiredWeightsAndCapacities=[wish]
    )
    at_rest(served.sagemaker, every_s=ASKED_EVERY_S)
    return False


# --- crowd -----------------------------------------------------------------------------------------


def crowd(options: argparse.Namespace) -> int:
    """Routers and workers die at random; clients are boto3's own."""
    dice = random.Random(options.seed)
    failures: list[str] = []
    answered = [0]
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        served = Served(Path(place), environments=ENVIRONMENTS)

        def call() -> None:
            runtime = served.client("sagemaker-runtime")
            while not stop.is_set():
                try:
                    runtime.invoke_endpoint(EndpointName="e", Body=b"x")["Body"].read()
                    answered[0] += 1
                except Exception as error:  # noqa: BLE001 - whatever a caller sees is the finding
                    failures.append(f"{time.monotonic():.2f} {error!r}")

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        try:
            for number in range(options.crowd):
                _with_kills(served, dice, number)
        finally:
            stop.set()
            for caller in callers:
                caller.join()
            served.stop()
    tell(part="crowd", answered=answered[0], failed=len(failures), first=failures[:5])
    return len(failures)


def _with_kills(served: Served, dice: random.Random, number: int) -> None:
    policy = dice.choice(sorted(POLICIES))
    serving = at_rest(served.sagemaker)["EndpointConfigName"]
    to = "v2" if serving == "v1" else "v1"
    served.sagemaker.update_endpoint(
        EndpointName="e", EndpointConfigName=to, DeploymentConfig=POLICIES[policy]
    )
    killed = []
    for _ in range(2):
        time.sleep(dice.uniform(0.3, 1.2))
        title = dice.choice(["understudy router", "understudy worker e/"])
        pids = served.named(title)
        # One at a time: with both of two gone nobody could answer.
        if pids and (title.startswith("understudy router") or len(pids) >= 2):
            with contextlib.suppress(ProcessLookupError):
                os.kill(dice.choice(pids), signal.SIGKILL)
                killed.append(title)
        until(lambda: len(served.named("understudy router")) == 2, "both routers")
    found = at_rest(served.sagemaker)
    until(lambda: served.leftovers().get("worker") == 2, "two instances again")
    tell(number=number, policy=policy, killed=killed, serves=found["EndpointConfigName"])


# --- stops -----------------------------------------------------------------------------------------


def stops(options: argparse.Namespace) -> int:
    """SIGTERM at a random moment of an update; the next server ends it."""
    dice = random.Random(options.seed)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        served = Served(Path(place), environments=ENVIRONMENTS)
        try:
            for number in range(options.stops):
                policy = dice.choice(sorted(POLICIES))
                to = "v2" if at_rest(served.sagemaker)["EndpointConfigName"] == "v1" else "v1"
                served.sagemaker.update_endpoint(
                    EndpointName="e", EndpointConfigName=to, DeploymentConfig=POLICIES[policy]
                )
                time.sleep(dice.uniform(0.0, 3.0))
                before = served.events()[-1]["kind"]
                served.stop()
                served.start()
                found = at_rest(served.sagemaker)
                held = (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", to)
                until(lambda: served.leftovers().get("worker") == 2, "two instances again")
                failed += not held
                tell(number=number, policy=policy, stopped_after=before, serves=found["EndpointConfigName"])
        finally:
            served.stop()
    return failed


PARTS: dict[str, Callable[[argparse.Namespace], int]] = {
    "updates": updates,
    "kills": kills,
    "crowd": crowd,
    "stops": stops,
    "regressions": regressions,
    "power": power,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
