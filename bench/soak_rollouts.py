"""``make soak``: rollouts under faults, to the end.  ``python -m bench.soak_rollouts --help``.

Three parts, each chosen by name:

- ``updates``: updates of every kind in a random order under constant raw load without retries; no request may
  fail, none may be answered by a configuration that did not serve.
- ``kills``: the controller is killed at every registered failpoint, of every policy, forward and back; the
  endpoint must end in exactly one configuration, without a failed request, a leftover or a bake begun anew.
- ``crowd``: routers and workers are killed at random times; boto3 must see no failure.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.environments import CACHE
from bench.rollout_world import (
    RawLoad,
    Served,
    at_rest,
    blue_green,
    percent,
    rolling,
    stamp_config,
    stamp_model,
    until,
    update_and_judge,
)
from understudy.control.failpoints import FAILPOINTS

ENVIRONMENTS = CACHE / "understudy-environments"

POLICIES: dict[str, dict[str, Any]] = {
    "all at once": blue_green("ALL_AT_ONCE", 20, termination_s=20),
    "canary": blue_green("CANARY", 20, CanarySize=percent(20)),
    "linear": blue_green("LINEAR", 20, LinearStepSize=percent(50)),
    "rolling": rolling(20),
}


def main(argv: list[str]) -> int:
    """Run the chosen parts; return 0 when everything held."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_rollouts", description=__doc__)
    parser.add_argument("parts", nargs="*", help="updates, kills, crowd; all of them when none is named")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--crowd", type=int, default=20, help="rollouts with routers and workers killed")
    parser.add_argument("--failpoints", default="", help="only those whose name contains this")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"there is no part {min(unknown)}; choose from {', '.join(PARTS)}")
    failed = 0
    for name in options.parts or PARTS:
        failed += PARTS[name](options)
    print(json.dumps({"failed": failed}))
    return 1 if failed else 0


def tell(**facts: Any) -> None:
    """Write one line of the protocol."""
    print(json.dumps(facts), flush=True)


# --- updates ---------------------------------------------------------------------------------------


def updates(options: argparse.Namespace) -> int:
    """Updates of every kind, one after the other."""
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        served = Served(Path(place), scale=60, environments=ENVIRONMENTS)
        try:
            return _updates(served, dice, options.updates)
        finally:
            served.stop()


def _updates(served: Served, dice: random.Random, count: int) -> int:
    stamps = ["v1", "v2"]
    for stamp in ("v3", "shadowed"):
        stamp_model(served.client, stamp)
    stamp_config(served.client, "v3", instances=3)
    stamps.append("v3")
    # The same answers with a shadow beside them, and the shadow's model in production's place.
    stamp_config(served.client, "shadowed", shadow="v2")
    stamps.append("shadowed")
    failed = 0
    serving = "v1"
    kinds: dict[str, Callable[[str], bool]] = {
        **{
            name: (lambda to, policy=policy: _update(served, to, policy, back=False))
            for name, policy in POLICIES.items()
        },
        **{
            f"{name} and back": (lambda to, policy=policy: _update(served, to, policy, back=True))
            for name, policy in POLICIES.items()
        },
        "plain": lambda to: _update(served, to, {}, back=False),
        "weights": lambda _: _reweigh(served, dice),
    }
    with RawLoad(served.port) as load:
        until(lambda: load.seen, "answers")
        for number in range(count):
            kind = dice.choice(sorted(kinds))
            to = dice.choice([one for one in stamps if one != serving])
            mark, at_mark, began_s = len(load.failures), len(load.answers), time.monotonic()
            took = kinds[kind](to)
            allowed = {serving} if kind == "weights" else {serving, to}
            if took:
                serving = to
            start = len(load.answers)
            until(lambda start=start: len(load.answers) > start + 50, "answers after it")  # type: ignore[misc]
            seen = [(variant, body) for _, variant, body in load.answers[at_mark:]]
            facts = {
                "failed": len(load.failures) - mark,
                "misrouted": sum(variant != "main" or body not in allowed for variant, body in seen),
                "late": sum(body != serving for _, body in seen[-8:]),
            }
            failed += any(facts.values())
            seconds = round(time.monotonic() - began_s, 2)
            first = load.failures[mark : mark + 2]
            tell(number=number, kind=kind, to=to, serves=serving, seconds=seconds, **facts, first=first)
    tell(part="updates", requests=sum(load.seen.values()), failed=len(load.failures))
    return failed


def _update(served: Served, to: str, deployment: dict[str, Any], *, back: bool) -> bool:
    """Update; tell whether the new configuration serves."""
    given = {"DeploymentConfig": deployment} if deployment else {}
    served.sagemaker.update_endpoint(EndpointName="e", EndpointConfigName=to, **given)
    if back:
        until(lambda: '"Baking"' in _pending(served), "a bake")
        served.roll_back()
    found = at_rest(served.sagemaker)
    assert found["EndpointStatus"] == "InService", found
    assert (found["EndpointConfigName"] == to) is not back, found
    return not back


def _pending(served: Served) -> str:
    found = served.sagemaker.describe_endpoint(EndpointName="e")
    return json.dumps(found.get("PendingDeploymentSummary", {}), default=str)


def _reweigh(served: Served, dice: random.Random) -> bool:
    wish = {
        "VariantName": "main",
        "DesiredWeight": dice.choice([0.5, 1.0, 3.0]),
        "DesiredInstanceCount": dice.choice([1, 2, 3]),
    }
    served.sagemaker.update_endpoint_weights_and_capacities(
        EndpointName="e", DesiredWeightsAndCapacities=[wish]
    )
    at_rest(served.sagemaker)
    return False


# --- kills -----------------------------------------------------------------------------------------


def kills(options: argparse.Namespace) -> int:
    """Every failpoint, every policy, forward and back; each once and twice in a row."""
    failed = 0
    for name in FAILPOINTS:
        if options.failpoints not in name:
            continue
        with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
            failed += _kills_at(name, Path(place))
    return failed


def _kills_at(name: str, place: Path) -> int:
    failed = 0
    served = Served(place, failpoint=f"{name}:2", environments=ENVIRONMENTS)
    counted = served.data_dir / "run" / "failpoints.json"
    try:
        for policy, deployment in POLICIES.items():
            for back in (False, True):
                until(lambda: at_rest(served.sagemaker), "the endpoint")
                counted.unlink(missing_ok=True)
                try:
                    facts = update_and_judge(served, deployment, back=back)
                except AssertionError as error:
                    failed += 1
                    tell(failpoint=name, policy=policy, back=back, failed=str(error)[:2000])
                    if served.process.poll() is not None:
                        return failed
                    continue
                deaths = json.loads(counted.read_text()) if counted.exists() else {}
                tell(failpoint=name, policy=policy, back=back, deaths=deaths.get(name, 0), **facts)
    finally:
        served.stop()
    return failed


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


PARTS: dict[str, Callable[[argparse.Namespace], int]] = {"updates": updates, "kills": kills, "crowd": crowd}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
