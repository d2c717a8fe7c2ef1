"""What pages ask of the stores beyond the API's own operations: statistics of a window, lineage, events.

Read only.  Main functions: :func:`window_statistics`, :func:`lineage`, :func:`newest_events`.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from understudy.core.endpoints import Endpoint, EndpointConfig
from understudy.core.errors import ApiError
from understudy.core.experiments import ENDED, InferenceExperiment
from understudy.core.metrics import (
    CAPTURE_OUTCOMES,
    CAPTURE_RECORDS,
    ENDPOINT_NAMESPACE,
    INSTANCE_NAMESPACE,
    SHADOW_OUTCOMES,
    SHADOW_REQUESTS,
    UNDERSTUDY_NAMESPACE,
    SeriesKey,
    Summary,
    dimensions_of,
)
from understudy.core.models import Model, containers_of
from understudy.core.ports import Event, Objects, Query, Records, Series
from understudy.core.rollout_progress import progress_of
from understudy.core.statistics import statistic

STATISTICS = ("SampleCount", "Sum", "Average", "Minimum", "p50", "p90", "p99", "Maximum")
METRICS = (
    ("ModelLatency", ENDPOINT_NAMESPACE),
    ("OverheadLatency", ENDPOINT_NAMESPACE),
    ("Invocations", ENDPOINT_NAMESPACE),
    ("InvocationsPerInstance", ENDPOINT_NAMESPACE),
    ("Invocation4XXErrors", ENDPOINT_NAMESPACE),
    ("Invocation5XXErrors", ENDPOINT_NAMESPACE),
    ("InvocationModelErrors", ENDPOINT_NAMESPACE),
    ("CPUUtilization", INSTANCE_NAMESPACE),
    ("MemoryUtilization", INSTANCE_NAMESPACE),
    ("DiskUtilization", INSTANCE_NAMESPACE),
)
PERIODS_S = (60, 300, 3600)  # what the series keep beyond seconds
# (how long the series keep, periods of): a little less than they do, as the clock goes on meanwhile.
KEPT_S = ((3 * 3600 - 60, 1), (15 * 86_400 - 600, 60), (63 * 86_400 - 600, 300))
EVENTS_PAGE = 1000


def window_statistics(
    series: Series, endpoint: str, variants: list[str], start_s: float, end_s: float, now_s: float
) -> dict[str, Any]:
    """Describe each variant's metrics over a window: exact counts, sums and extremes, percentiles within 1 %.

    Args:
        start_s, end_s: Unix time; ends older than the series' seconds are widened to a minute, five or an
            hour.
    Returns:
        ``variants``: by name, by metric, by name of the statistic; ``shadow`` and ``capture``: counts by
        outcome.
    """
    parts = _parts(start_s, end_s, now_s)
    told: dict[str, Any] = {}
    for variant in variants:
        place = {"EndpointName": endpoint, "VariantName": variant}

        def read(namespace: str, metric_name: str, place: dict[str, str] = place, **more: str) -> Summary:
            key = SeriesKey(namespace, metric_name, dimensions_of({**place, **more}))
            return Summary.total(one.summary for part in parts for one in series.read(key, *part))

        metrics = {}
        for metric_name, namespace in METRICS:
            summary = read(namespace, metric_name)
            metrics[metric_name] = {name: statistic(summary, name) for name in STATISTICS}
        told[variant] = {
            "metrics": metrics,
            "shadow": {
                outcome: read(UNDERSTUDY_NAMESPACE, SHADOW_REQUESTS, Outcome=outcome).sum
                for outcome in SHADOW_OUTCOMES
            },
            "capture": {
                outcome: read(UNDERSTUDY_NAMESPACE, CAPTURE_RECORDS, Outcome=outcome).sum
                for outcome in CAPTURE_OUTCOMES
            },
        }
    return {"start_s": parts[0][0], "end_s": parts[-1][1], "variants": told}


def _parts(start_s: float, end_s: float, now_s: float) -> list[tuple[int, int, int]]:
    """Cut a window into parts (start, end, period): coarse whole periods inside, finer ones at its ends.

    >>> _parts(50.0, 130.0, 200.0)
    [(50, 60, 1), (60, 120, 60), (120, 130, 1)]
    """
    first_s = _aligned(math.floor(start_s), now_s)
    last_s = -_aligned(-math.ceil(end_s), now_s)
    before: list[tuple[int, int, int]] = []
    after: list[tuple[int, int, int]] = []
    period_s = 1
    for coarser_s in PERIODS_S:
        inner_first_s, inner_last_s = -(-first_s // coarser_s) * coarser_s, last_s // coarser_s * coarser_s
        if inner_first_s >= inner_last_s:
            break
        before.append((first_s, inner_first_s, period_s))
        after.insert(0, (inner_last_s, last_s, period_s))
        first_s, last_s, period_s = inner_first_s, inner_last_s, coarser_s
    return [part for part in (*before, (first_s, last_s, period_s), *after) if part[0] < part[1]]


def _aligned(at_s: int, now_s: float) -> int:
    """Move a start (or the negative of an end) outwards to where the series still tell a border."""
    age_s = now_s - abs(at_s)
    period_s = next((period_s for kept_s, period_s in KEPT_S if age_s <= kept_s), PERIODS_S[-1])
    return at_s // period_s * period_s


def lineage(records: Records, objects: Objects, described: dict[str, Any]) -> dict[str, Any]:
    """Tell which artifact is in which model, configuration and endpoint.

    An object's ETag is the MD5 of what was uploaded at once; ``loaded`` is what instances run: SHA-256, and
    the name and version that the artifact gives itself.

    Args:
        described: State of endpoints and instances.
    """
    loaded = {
        (endpoint["name"], variant["name"]): variant["artifacts"]
        for endpoint in described["endpoints"]
        for variant in endpoint["variants"]
    }
    endpoints = [stored.value for stored in records.find(Endpoint, Query())]
    configs = [stored.value for stored in records.find(EndpointConfig, Query())]
    running: dict[str, list[dict[str, Any]]] = {}
    for endpoint in endpoints:
        for variant in endpoint.fleet.variants if endpoint.fleet is not None else ():
            running.setdefault(variant.model_name, []).append(
                {
                    "endpoint": endpoint.name,
                    "variant": variant.name,
                    "shadow": variant.shadow,
                    "config": endpoint.config_name,
                    "images": [{"specified": one[0], "resolved": one[1]} for one in variant.images],
                    "artifacts": [one.model_data_url for one in variant.containers],
                    "loaded": loaded.get((endpoint.name, variant.name), []),
                }
            )
    planned: dict[str, list[str]] = {}
    for config in configs:
        for member in ("ProductionVariants", "ShadowProductionVariants"):
            for one in config.request.get(member, []):
                names = planned.setdefault(one.get("ModelName", ""), [])
                if config.name not in names:
                    names.append(config.name)
    models = []
    for stored in records.find(Model, Query(sort_by="created", descending=True)):
        model = stored.value
        models.append(
            {
                "name": model.name,
                "created_at_s": model.created_at_s,
                "containers": [
                    {
                        "hostname": one.hostname,
                        "image": one.image,
                        "artifact": one.model_data_url,
                        **_artifact(objects, one.model_data_url, compressed=one.compressed),
                    }
                    for one in containers_of(model.request)
                ],
                "configs": planned.get(model.name, []),
                "running": running.get(model.name, []),
            }
        )
    known = {one["name"] for one in models}
    return {
        "models": models,
        "deleted": [{"name": name, "running": where} for name, where in running.items() if name not in known],
        "configs": [
            {
                "name": config.name,
                "created_at_s": config.created_at_s,
                "serves": [one.name for one in endpoints if one.config_name == config.name],
                "variants": [
                    {
                        "name": one["VariantName"],
                        "model": one.get("ModelName", ""),
                        "shadow": member.startswith("Shadow"),
                    }
                    for member in ("ProductionVariants", "ShadowProductionVariants")
                    for one in config.request.get(member, [])
                ],
            }
            for config in sorted(configs, key=lambda one: -one.created_at_s)
        ],
    }


def _artifact(objects: Objects, url: str | None, *, compressed: bool) -> dict[str, Any]:
    """Describe the object behind a model's data, as it is now."""
    if url is None or not url.startswith("s3://") or not compressed:
        return {}
    bucket, _, key = url.removeprefix("s3://").partition("/")
    try:
        info = objects.head(bucket, key)
    except ApiError as error:
        if error.status != 404:
            raise
        return {"missing": True}
    return {"etag": info.etag, "size_bytes": info.size_bytes, "modified_at_s": info.modified_at_s}


def newest_events(records: Records, subject: str, limit: int) -> list[dict[str, Any]]:
    """Return the newest events about something, newest first.

    Args:
        subject: ARN.
    """
    newest: deque[Event] = deque(maxlen=limit)
    after = 0
    while page := records.events(subject, after, EVENTS_PAGE):
        newest.extend(page)
        after = page[-1].sequence
        if len(page) < EVENTS_PAGE:
            break
    return [
        {"sequence": one.sequence, "kind": one.kind, "at_s": one.at_s, "detail": one.detail}
        for one in reversed(newest)
    ]


def unfinished_tests(records: Records) -> list[dict[str, Any]]:
    """List shadow tests that are not over, by endpoint: what the overview shows beside it."""
    return [
        {
            "name": stored.value.name,
            "status": str(stored.value.status),
            "endpoint": stored.value.endpoint_name,
            "starts_at_s": stored.value.starts_at_s,
            "ends_at_s": stored.value.ends_at_s,
        }
        for stored in records.find(InferenceExperiment, Query())
        if stored.value.status not in ENDED
    ]


def rollouts_under_way(records: Records, now_s: float) -> list[dict[str, Any]]:
    """List updates that are not over: what the overview shows of them; alarms are the endpoint's page's."""
    return [
        progress_of(stored.value, (), now_s)
        for stored in records.find(Endpoint, Query())
        if stored.value.update is not None and stored.value.update.kind == "update"
    ]
