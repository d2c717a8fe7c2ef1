"""The controller dies at every registered failpoint, and again while it recovers, wherever that is met.

One server serves the whole matrix: it is armed with all failpoints, and the file that counts deaths says of
all but a few that they have had theirs.  The controller that follows each death dies too, at the first
failpoint that it meets.  What a run did not meet among others is tried alone.  Main function: :func:`kills`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

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
DEATHS = 1
TOGETHER = 3  # failpoints of one run, each with a second death after it
SLOW_S = 0.03  # between requests: what is killed and started again needs the processor

POLICIES: dict[str, dict[str, Any]] = {
    "all at once": blue_green("ALL_AT_ONCE", 20, termination_s=20),
    "canary": blue_green("CANARY", 20, CanarySize=percent(20)),
    "linear": blue_green("LINEAR", 20, LinearStepSize=percent(50)),
    "rolling": rolling(20),
}
BY_BATCHES = rolling(30)
BY_BATCHES["RollingUpdatePolicy"]["RollbackMaximumBatchSize"] = {"Type": "INSTANCE_COUNT", "Value": 1}

Story = Callable[["Stage"], dict[str, Any]]
INSTANCES = {"StartInstance", "StopInstance"}
UPDATED = {"DeploymentStarted", "TrafficShifting", "BakingStarted", *INSTANCES}
FORTH = UPDATED | {"TrafficShifted", "EndpointUpdated"}
BACK = UPDATED | {"RollbackStarted", "TrafficReturned", "UpdateRolledBack"}


# There the routers' table is as it was before: nothing is sent in whose middle one could die.
UNREACHABLE = {
    ("TrafficShifted", "mid-effect", "weights"),
    ("TrafficShifted", "mid-effect", "create and delete"),
}


@dataclass
class Stage:
    """A server, and a file that keeps models from loading while it is there."""

    served: Served
    gate: Path


def kills(options: argparse.Namespace) -> int:
    """Every failpoint in every story that meets it; return how many did not hold.

    With ``--protocol FILE`` each result is noted there and what held before is not done again; with
    ``--minutes`` it stops after so many.  Both together do the matrix in pieces.
    """
    protocol = _Protocol(options.protocol)
    wanted = [
        (name, story)
        for name, story in _in_turn()
        if options.stories in story and any(part in name for part in options.failpoints.split(","))
    ]
    stop_at_s = time.monotonic() + 60.0 * options.minutes
    failed = 0
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        run_dir = Path(place) / "data" / "run"
        run_dir.mkdir(mode=0o700, parents=True)
        counted = run_dir / "failpoints.json"
        _let_die(counted)
        armed = ",".join(f"{name}:{DEATHS}" for name in FAILPOINTS)
        served = Served(Path(place), failpoint=armed, environments=ENVIRONMENTS)
        stage = Stage(served, Path(place) / "gate")
        try:
            _prepare(stage)
            for together in (
                TOGETHER if options.twice else 2 * TOGETHER,
                1,
            ):  # what was not met among others is tried alone
                open_ones = [pair for pair in wanted if pair not in protocol.done]
                for names, story in _groups(open_ones, together):
                    if time.monotonic() < stop_at_s:
                        failed += _kill_at(
                            stage, counted, names, story, protocol, alone=together == 1, twice=options.twice
                        )
        finally:
            served.stop()
    protocol.summary(wanted)
    return failed


def _in_turn() -> list[tuple[str, str]]:
    """Order the matrix: each failpoint once, in different stories, before any of them comes again."""
    rounds: list[tuple[int, str, str]] = []
    for number, name in enumerate(FAILPOINTS):
        event, _, boundary = name.partition("/")
        stories = [
            story
            for story, (_, events) in STORIES.items()
            if event in events and (event, boundary, story) not in UNREACHABLE
        ]
        rounds += [((at - number) % len(stories), name, story) for at, story in enumerate(stories)]
    return [(name, story) for _, name, story in sorted(rounds, key=lambda one: one[0])]


def _groups(pairs: list[tuple[str, str]], size: int) -> Iterator[tuple[list[str], str]]:
    """Put failpoints of a story together that one run can meet: the same boundary of different steps.

    What comes first stays first; later ones of its kind join it.
    """
    left = dict.fromkeys(pairs)
    while left:
        name, story = next(iter(left))
        boundary = name.partition("/")[2]
        alike = [one for one, of in left if of == story and one.partition("/")[2] == boundary]
        for one in alike[:size]:
            del left[one, story]
        yield alike[:size], story


class _Protocol:
    """What was found, one JSON line each, on standard output and in a file if one is named.

    Attributes:
        done: (failpoint, story) of what held.
        met: Failpoints at which a controller died.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.done: set[tuple[str, str]] = set()
        self.met: set[str] = set()
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                self._take(json.loads(line))

    def _take(self, line: dict[str, Any]) -> None:
        if "failed" not in line:
            self.done.update((name, line["story"]) for name in line["killed at"])
            self.met.update((*line["killed at"], *line["then"]))

    def note(self, line: dict[str, Any]) -> None:
        """Write one result."""
        self._take(line)
        print(json.dumps(line), flush=True)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def summary(self, wanted: list[tuple[str, str]]) -> None:
        """Tell how far the matrix is, and at which failpoints no controller died."""
        left = [pair for pair in wanted if pair not in self.done]
        never = sorted(set(FAILPOINTS) - self.met)
        print(json.dumps({"part": "kills", "held": len(self.done), "left": len(left), "never met": never}))


def _let_die(counted: Path, *names: str) -> None:
    beside = counted.with_suffix(".new")
    beside.write_text(json.dumps({one: 0 if one in names else DEATHS for one in FAILPOINTS}))
    beside.replace(counted)


class _Deaths:
    """Kills the controller at each of some failpoints, and the one that follows wherever it gets first.

    Args:
        twice: Whether the one that follows dies.
    """

    def __init__(self, counted: Path, names: list[str], *, twice: bool) -> None:
        self._counted = counted
        self._twice = twice
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.ahead = set(names)
        self.killed: list[str] = []
        self.then: list[str] = []

    def __enter__(self) -> _Deaths:
        _let_die(self._counted, *self.ahead)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        _let_die(self._counted)

    def _run(self) -> None:
        recovering = False
        while (self.ahead or recovering) and not self._stop.wait(0.01):
            may_die = set(FAILPOINTS) if recovering else self.ahead
            with contextlib.suppress(ValueError):  # the controller is writing it
                counts = json.loads(self._counted.read_text())
                dead = [one for one in may_die if counts[one] == DEATHS]
                if dead:
                    (self.then if recovering else self.killed).extend(dead)
                    self.ahead -= set(dead)
                    recovering = self._twice and not recovering
                    # The next controller needs far longer to start than this.
                    _let_die(self._counted, *(FAILPOINTS if recovering else self.ahead))


def _kill_at(
    stage: Stage,
    counted: Path,
    names: list[str],
    story: str,
    protocol: _Protocol,
    *,
    alone: bool,
    twice: bool,
) -> int:
    problem = None
    play, _ = STORIES[story]
    facts: dict[str, Any] = {}
    began_s = time.monotonic()
    with _Deaths(counted, names, twice=twice) as deaths:
        try:
            facts = play(stage)
        except (AssertionError, ClientError, BotoCoreError, OSError) as error:
            problem = repr(error)[:2000]
    if problem is None and alone and not deaths.killed:
        problem = f"{names[0]} was not met"
    line = {"story": story, "killed at": deaths.killed, "then": deaths.then, **facts}
    line["seconds"] = round(time.monotonic() - began_s, 1)
    protocol.note(line if problem is None else {**line, "armed": names, "failed": problem})
    if problem is not None:
        print(stage.served.log.read_text()[-20_000:], file=sys.stderr, flush=True)
        stage.gate.unlink(missing_ok=True)
        with contextlib.suppress(AssertionError):  # told above; the next story judges where it begins
            _as_at_first(stage)
    return problem is not None


def _prepare(stage: Stage) -> None:
    client = stage.served.client
    stamp_model(client, "crash")
    stamp_config(client, "crash")
    stamp_model(client, "gated", gate=stage.gate)
    stamp_config(client, "gated")


def _as_at_first(stage: Stage) -> None:
    """Bring ``e`` to v1 with two instances, from wherever a story has left it."""
    found = at_rest(stage.served.sagemaker)
    if (found["EndpointStatus"], found["EndpointConfigName"]) != ("InService", "v1"):
        _ask(lambda: stage.served.sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="v1"))
        found = at_rest(stage.served.sagemaker)
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "v1"), found
    _two_workers(stage)


def _two_workers(stage: Stage) -> None:
    until(lambda: stage.served.leftovers().get("worker") == 2, "two instances, and no more")
    assert stage.served.leftovers()["files"] == len(list((stage.served.data_dir / "run" / "w").iterdir()))


def _ask(call: Callable[[], Any]) -> None:
    """Call once more when the answer got lost with the controller; the wish may have been taken then."""

    def asked() -> bool:
        try:
            call()
        except ClientError as error:
            if not any(told in str(error) for told in ("in-progress", "already existing", "Could not find")):
                raise
        return True

    until(asked, "the call to be taken")


# --- stories ---------------------------------------------------------------------------------------


def _update(deployment: dict[str, Any], back: int) -> Story:
    return lambda stage: update_and_judge(stage.served, deployment, back=back, pause_s=SLOW_S)


def _weights(stage: Stage) -> dict[str, Any]:
    """One more instance and one less, under load."""
    served = stage.served
    with RawLoad(served.port, pause_s=SLOW_S) as load:
        for count in (3, 2):
            wish = [{"VariantName": "main", "DesiredWeight": float(count), "DesiredInstanceCount": count}]
            _ask(
                lambda wish=wish: served.sagemaker.update_endpoint_weights_and_capacities(  # type: ignore[misc]
                    EndpointName="e", DesiredWeightsAndCapacities=wish
                )
            )
            (variant,) = at_rest(served.sagemaker)["ProductionVariants"]
            assert variant["CurrentInstanceCount"] == count == variant["CurrentWeight"], variant
    assert load.failures == [], load.failures[:5]
    _two_workers(stage)
    return {"requests": sum(load.seen.values())}


def _to_gated(stage: Stage) -> None:
    _ask(lambda: stage.served.sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="gated"))
    assert at_rest(stage.served.sagemaker)["EndpointConfigName"] == "gated"


def _weights_that_fail(stage: Stage) -> dict[str, Any]:
    """An added instance that can't come up."""
    served = stage.served
    _to_gated(stage)
    stage.gate.touch()
    wish = [{"VariantName": "main", "DesiredInstanceCount": 3}]
    with RawLoad(served.port, pause_s=SLOW_S) as load:
        _ask(
            lambda: served.sagemaker.update_endpoint_weights_and_capacities(
                EndpointName="e", DesiredWeightsAndCapacities=wish
            )
        )
        found = at_rest(served.sagemaker)
    stage.gate.unlink()
    assert load.failures == [], load.failures[:5]
    assert found["EndpointStatus"] == "InService" and "can't be loaded" in found["FailureReason"], found
    assert found["ProductionVariants"][0]["DesiredInstanceCount"] == 2, found
    _as_at_first(stage)
    return {}


def _update_that_fails(stage: Stage) -> dict[str, Any]:
    """A version that can't be loaded, which nobody was sent to."""
    served = stage.served
    before = at_rest(served.sagemaker)["EndpointConfigName"]
    with RawLoad(served.port, pause_s=SLOW_S) as load:
        _ask(lambda: served.sagemaker.update_endpoint(EndpointName="e", EndpointConfigName="crash"))
        found = at_rest(served.sagemaker)
    assert load.failures == [] and {body for _, body in load.seen} == {before}, load.failures[:5]
    assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", before), found
    assert "can't be loaded" in found["FailureReason"], found
    until(lambda: served.events()[-1]["kind"] == "FleetRemoved", "the end of the new fleet")
    _two_workers(stage)
    return {}


def _rollback_that_fails(stage: Stage) -> dict[str, Any]:
    """Neither forward nor back; then all at once to one configuration."""
    served = stage.served
    _to_gated(stage)
    with RawLoad(served.port, pause_s=SLOW_S) as load:
        _ask(
            lambda: served.sagemaker.update_endpoint(
                EndpointName="e", EndpointConfigName="v1", DeploymentConfig=BY_BATCHES
            )
        )
        until(lambda: served.bakes() == 2, "the second bake")
        stage.gate.touch()
        until(lambda: served.roll_back() is None, "the rollback to be taken")
        found = at_rest(served.sagemaker)
        assert found["EndpointStatus"] == "UpdateRollbackFailed", found
        stage.gate.unlink()
        _as_at_first(stage)
    assert load.failures == [], load.failures[:5]
    return {"reason": found["FailureReason"][:80]}


def _create(config: str, status: str) -> Story:
    def play(stage: Stage) -> dict[str, Any]:
        served = stage.served
        _ask(lambda: served.sagemaker.create_endpoint(EndpointName="f", EndpointConfigName=config))
        found = at_rest(served.sagemaker, "f")
        assert found["EndpointStatus"] == status, found
        _ask(lambda: served.sagemaker.delete_endpoint(EndpointName="f"))
        until(lambda: _is_gone(served), "the delete")
        _two_workers(stage)
        return {}

    return play


def _is_gone(served: Served) -> bool:
    return "f" not in {one["EndpointName"] for one in served.sagemaker.list_endpoints()["Endpoints"]}


def _recovery(*, gated: bool) -> Story:
    def play(stage: Stage) -> dict[str, Any]:
        served = stage.served
        if gated:
            _to_gated(stage)
            stage.gate.touch()
        served.kill_everything()
        served.start()
        if gated:
            until(lambda: "FailureReason" in served.sagemaker.describe_endpoint(EndpointName="e"), "a reason")
            stage.gate.unlink()
        found = at_rest(served.sagemaker)
        assert found["EndpointStatus"] == "InService", found
        _as_at_first(stage)
        return {}

    return play


STORIES: dict[str, tuple[Story, set[str]]] = {
    **{
        name: (
            _update(policy, 0),
            FORTH
            | ({"TerminationWaitStarted"} if name == "all at once" else set())
            | ({"BatchStarted"} if name == "rolling" else set()),
        )
        for name, policy in POLICIES.items()
    },
    **{f"{name} and back": (_update(policy, 1), BACK) for name, policy in POLICIES.items()},
    "back by batches": (
        _update(BY_BATCHES, 2),
        BACK | {"BatchStarted", "RollbackBatchStarted", "TrafficReturning"},
    ),
    "weights": (_weights, {"TrafficShifting", "TrafficShifted", "WeightsChanged", *INSTANCES}),
    "weights that fail": (_weights_that_fail, {"WeightsRolledBack"}),
    "an update that fails": (_update_that_fails, {"UpdateRolledBack", "FleetRemoved", *INSTANCES}),
    "a rollback that fails": (_rollback_that_fails, {"UpdateRollbackFailed", "RollbackBatchStarted"}),
    "create and delete": (
        _create("v1", "InService"),
        {"TrafficShifting", "EndpointInService", "TrafficShifted", "EndpointDeleted", *INSTANCES},
    ),
    "a create that fails": (_create("crash", "Failed"), {"EndpointFailed", "EndpointDeleted", *INSTANCES}),
    "all killed": (_recovery(gated=False), {"EndpointRecovering", "EndpointRecovered", "StartInstance"}),
    "all killed, and no model": (
        _recovery(gated=True),
        {"EndpointRecovering", "EndpointNotRecovering", "EndpointRecovered"},
    ),
}
