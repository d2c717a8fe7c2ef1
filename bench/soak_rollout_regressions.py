"""Injected regressions go back by their own alarms, and good versions do not.

A regression fails every request, takes too long, or can't be loaded.  Main function: :func:`regressions`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.rollout_world import (
    RawLoad,
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
from bench.soak_rollout_kills import ENVIRONMENTS

SCALE = 60  # a period of the alarms is a second
WAIT_S = 180
SHARES: dict[str, tuple[float, dict[str, Any]]] = {
    "canary": (0.1, blue_green("CANARY", WAIT_S, CanarySize=percent(10))),
    "linear": (0.5, blue_green("LINEAR", WAIT_S, LinearStepSize=percent(50))),
    "rolling": (0.5, rolling(WAIT_S)),
}
BAD = ("bad", "slow", "crash")


def put_alarm(
    client: Callable[..., Any], name: str, config: str, metric: str, statistic: str, threshold: float
) -> None:
    """Make an alarm on what one configuration of ``e`` does within a minute."""
    client("cloudwatch").put_metric_alarm(
        AlarmName=name,
        Namespace="AWS/SageMaker",
        MetricName=metric,
        Dimensions=[
            {"Name": "EndpointName", "Value": "e"},
            {"Name": "VariantName", "Value": "main"},
            {"Name": "EndpointConfigName", "Value": config},
        ],
        Statistic=statistic,
        Period=60,
        EvaluationPeriods=1,
        Threshold=threshold,
        ComparisonOperator="GreaterThanThreshold",
        TreatMissingData="notBreaching",
    )


def regressions(options: argparse.Namespace) -> int:
    """As many bad versions as good ones, in a random order; return how many were not what they should be."""
    dice = random.Random(options.seed)
    wishes = [BAD[number % len(BAD)] for number in range(options.regressions)] + [
        "good"
    ] * options.regressions
    dice.shuffle(wishes)
    failed = 0
    counts: Counter[str] = Counter()
    green: dict[str, int] = Counter()
    every: dict[str, int] = Counter()
    with tempfile.TemporaryDirectory(prefix="soak-rollouts-") as place:
        served = Served(Path(place), scale=SCALE, environments=ENVIRONMENTS)
        try:
            for stamp in BAD:
                stamp_model(served.client, stamp)
                stamp_config(served.client, stamp)
            for stamp in ("v1", "v2", *BAD):
                put_alarm(served.client, f"{stamp}-errors", stamp, "Invocation5XXErrors", "Average", 0.01)
                put_alarm(served.client, f"{stamp}-latency", stamp, "ModelLatency", "Average", 300_000.0)
            for number, wish in enumerate(wishes):
                policy = dice.choice(sorted(SHARES))
                facts = _one(served, wish, policy)
                failed += facts["wrong"]
                counts[wish] += 1
                counts[f"{wish}, rolled back"] += facts["rolled_back"]
                green[policy] += facts["by_green"]
                every[policy] += facts["meanwhile"]
                print(json.dumps({"number": number, "wish": wish, "policy": policy, **facts}), flush=True)
        finally:
            served.stop()
    parts = {policy: round(green[policy] / count, 4) for policy, count in every.items() if count}
    # A handful of requests says nothing about a share.
    over = [
        policy for policy, part in parts.items() if every[policy] > 5000 and part > SHARES[policy][0] + 0.01
    ]
    print(
        json.dumps({"part": "regressions", "counts": counts, "served_by_bad": parts, "of": every}), flush=True
    )
    return failed + len(over)


def _one(served: Served, wish: str, policy: str) -> dict[str, Any]:
    before = at_rest(served.sagemaker)["EndpointConfigName"]
    to = ("v2" if before == "v1" else "v1") if wish == "good" else wish
    alarms = [f"{to}-errors", f"{to}-latency"]
    cloudwatch = served.client("cloudwatch")
    until(
        lambda: all(
            one["StateValue"] != "ALARM"
            for one in cloudwatch.describe_alarms(AlarmNames=alarms)["MetricAlarms"]
        ),
        "the alarms to be over",
    )
    with RawLoad(served.port, connections=8) as load:
        until(lambda: load.seen, "answers")
        served.sagemaker.update_endpoint(
            EndpointName="e", EndpointConfigName=to, DeploymentConfig=guarded(SHARES[policy][1], *alarms)
        )
        found = at_rest(served.sagemaker)
    rolled_back = found["EndpointConfigName"] == before
    # Between its first answer and its last, both left out: how much of it all was the new version's?
    told = sorted(
        [(at_s, body == to) for at_s, _, body in load.answers]
        + [(float(one.split()[0]), "this version is bad" in one) for one in load.failures]
    )
    mine = [number for number, (_, is_green) in enumerate(told) if is_green]
    bad = wish != "good"
    inner = len(mine) > 2 and bad
    unexpected = [one for one in load.failures if not (wish == "bad" and " 424 " in one)]
    reason = found.get("FailureReason", "")
    return {
        "rolled_back": rolled_back,
        "reason": reason[:60],
        "by_green": len(mine) - 2 if inner else 0,
        "meanwhile": mine[-1] - mine[0] - 1 if inner else 0,
        "unexpected": unexpected[:3],
        "wrong": rolled_back is not bad or bool(reason) is not bad or bool(unexpected),
    }
