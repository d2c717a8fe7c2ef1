"""``GET /healthz``, ``GET /metrics`` and ``GET /understudy/v1/status``.

Health and metrics are open to whoever reaches the port, as scrapers expect; status names models and
endpoints and wants the same signature as the API.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from understudy import __version__
from understudy.console.prometheus import UnderstudyCollector, render
from understudy.core.endpoints import Endpoint, EndpointStatus, FleetVariant
from understudy.core.ports import InstanceState, InstanceStatus, Query, Records, Runtime
from understudy.core.routing import shadow_share
from understudy.core.signing import SignatureFailure, SignedRequest, verify


@dataclass(frozen=True)
class HealthFace:
    """The three pages.

    Attributes:
        routers: Returns (number, pid) of connected routers.
        credentials: Returns secrets by access key id.
        now_s: Real time, for signatures.
        auth: ``sigv4`` or ``none``.
    """

    records: Records
    runtime: Runtime
    collector: UnderstudyCollector
    routers: Callable[[], list[tuple[int, int]]]
    credentials: Callable[[], Mapping[str, str]]
    now_s: Callable[[], float]
    region: str
    auth: str

    def routes(self) -> list[Route]:
        """Return the Starlette routes."""
        return [
            Route("/healthz", self.healthz, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/understudy/v1/status", self.status, methods=["GET"]),
        ]

    async def healthz(self, _: Request) -> Response:
        """200 while the server can take requests, with what an operator looks at first."""
        return _json(await run_in_threadpool(self._health))

    def _health(self) -> dict[str, Any]:
        endpoints = [stored.value for stored in self.records.find(Endpoint, Query())]
        return {
            "status": "ok",
            "version": __version__,
            "routers": len(self.routers()),
            "endpoints": {
                status.value: count
                for status in EndpointStatus
                if (count := sum(endpoint.status is status for endpoint in endpoints))
            },
        }

    async def metrics(self, _: Request) -> Response:
        """Prometheus text."""
        body = await run_in_threadpool(render, self.collector)
        return Response(body, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def status(self, request: Request) -> Response:
        """Processes, endpoints, variants, shares, instances."""
        try:
            self._authenticate(request)
        except SignatureFailure as failure:
            code, status = failure.wire("json")
            return _json({"__type": code, "message": failure.message}, status=status)
        return _json(await run_in_threadpool(self.describe))

    def _authenticate(self, request: Request) -> None:
        if self.auth == "none":
            return
        signed = SignedRequest(
            request.method,
            request.scope["raw_path"],
            request.scope["query_string"],
            request.scope["headers"],
            hashlib.sha256(b"").hexdigest(),
        )
        verify(signed, self.credentials(), now_s=self.now_s(), region=self.region, services=("sagemaker",))

    def describe(self) -> dict[str, Any]:
        """Describe processes, endpoints, variants and instances as they are now."""
        states = list(self.runtime.observe())
        processes = [
            {"role": "supervisor", "pid": os.getppid(), "name": "understudy serve"},
            {"role": "controller", "pid": os.getpid(), "name": "understudy controller"},
        ]
        processes += [
            {"role": "router", "pid": pid, "name": f"understudy router {number}"}
            for number, pid in self.routers()
        ]
        for state in states:
            endpoint_name, variant_name, _, rest = state.instance_id.split("/")
            if state.pid is not None:
                name = f"understudy worker {endpoint_name}/{variant_name}/{rest.split('-')[0]}"
                processes.append({"role": "worker", "pid": state.pid, "name": name})
        by_variant: dict[tuple[str, ...], list[InstanceState]] = {}
        for state in states:
            by_variant.setdefault(tuple(state.instance_id.split("/")[:3]), []).append(state)
        endpoints = []
        for stored in self.records.find(Endpoint, Query()):
            endpoint = stored.value
            fleet = endpoint.fleet or (endpoint.update.fleet if endpoint.update is not None else None)
            variants = fleet.variants if fleet is not None else ()
            fleet_id = fleet.fleet_id if fleet is not None else ""
            total = sum(variant.current_weight for variant in variants if not variant.shadow)
            endpoints.append(
                {
                    "name": endpoint.name,
                    "status": endpoint.status.value,
                    "config_name": endpoint.config_name,
                    "failure_reason": endpoint.failure_reason,
                    "variants": [
                        _variant(variant, total, by_variant.get((endpoint.name, variant.name, fleet_id), []))
                        for variant in variants
                    ],
                }
            )
        return {"processes": processes, "endpoints": endpoints}


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")


def _variant(variant: FleetVariant, total: float, states: Sequence[InstanceState]) -> dict[str, Any]:
    """Describe a variant.

    Args:
        total: Sum of production's weights.
        states: Of its instances.
    """
    serving = [state for state in states if state.status is InstanceStatus.READY]
    return {
        "name": variant.name,
        "model_name": variant.model_name,
        "instance_type": variant.instance_type,
        "weight": variant.current_weight,
        "desired_weight": variant.desired_weight,
        "share": _share(variant, total),
        "shadow": variant.shadow,
        "instances": len(serving),
        "desired_instances": variant.desired_count,
        "images": [{"specified": image[0], "resolved": image[1]} for image in variant.images],
        "artifacts": [
            {"digest": digest, "name": name, "version": version}
            for digest, name, version in sorted({one for state in serving for one in state.artifacts})
        ],
        "detail": [
            {
                "instance": state.instance_id,
                "status": state.status.value,
                "detail": state.detail,
                "reason": state.reason,
            }
            for state in states
        ],
    }


def _share(variant: FleetVariant, total: float) -> float:
    """The share of requests a variant answers, or that a shadow gets copies of."""
    if variant.shadow:
        return shadow_share(variant.current_weight, total)
    return variant.current_weight / total if total > 0.0 else 0.0
