"""Write ``grafana-dashboard.json`` for the metrics of ``/metrics``; ``--check`` tells whether it is fresh.

Main function: :func:`dashboard`.  Source: Grafana's dashboard JSON model, schema 39.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("grafana-dashboard.json")
PICK = 'endpoint=~"$endpoint",variant=~"$variant"'
SOURCE = {"type": "prometheus", "uid": "${source}"}


def rate(name: str, by: str = "endpoint, variant") -> str:
    """Per second."""
    return f"sum by ({by}) (rate({name}{{{PICK}}}[$__rate_interval]))"


def quantile(share: float, name: str) -> str:
    """Of a histogram, per variant."""
    inner = f"sum by (endpoint, variant, le) (rate({name}_bucket{{{PICK}}}[$__rate_interval]))"
    return f"histogram_quantile({share}, {inner})"


PANELS: list[tuple[str, str, list[tuple[str, str]]]] = [
    ("Requests per second", "reqps", [(rate("understudy_invocations_total"), "{{endpoint}} / {{variant}}")]),
    (
        "5XX errors, share of requests",
        "percentunit",
        [
            (
                f"{rate('understudy_invocation_5xx_errors_total')} / {rate('understudy_invocations_total')}",
                "{{endpoint}} / {{variant}}",
            )
        ],
    ),
    (
        "Model latency",
        "s",
        [
            (
                quantile(share, "understudy_model_latency_seconds"),
                f"{{{{endpoint}}}} / {{{{variant}}}} {name}",
            )
            for share, name in ((0.5, "p50"), (0.99, "p99"))
        ],
    ),
    (
        "Overhead latency",
        "s",
        [(quantile(0.99, "understudy_overhead_latency_seconds"), "{{endpoint}} / {{variant}} p99")],
    ),
    (
        "4XX errors and model errors per second",
        "reqps",
        [
            (rate("understudy_invocation_4xx_errors_total"), "{{endpoint}} / {{variant}} 4XX"),
            (rate("understudy_invocation_model_errors_total"), "{{endpoint}} / {{variant}} model"),
        ],
    ),
    (
        "Shadows: what became of production's requests",
        "reqps",
        [
            (
                rate("understudy_shadow_requests_total", "endpoint, variant, outcome"),
                "{{endpoint}} / {{variant}} {{outcome}}",
            )
        ],
    ),
    (
        "Capture: what became of answers",
        "reqps",
        [
            (
                rate("understudy_capture_records_total", "endpoint, variant, outcome"),
                "{{endpoint}} / {{variant}} {{outcome}}",
            )
        ],
    ),
    (
        "Weights",
        "short",
        [(f"understudy_variant_weight{{{PICK}}}", "{{endpoint}} / {{variant}}")],
    ),
    (
        "Instances",
        "short",
        [(f"understudy_instances{{{PICK}}}", "{{endpoint}} / {{variant}} {{status}}")],
    ),
    (
        "What serves, as the artifact itself says",
        "short",
        [
            (
                f"max by (endpoint, variant, name, version) (understudy_model_info{{{PICK}}})",
                "{{endpoint}} / {{variant}}: {{name}} {{version}}",
            )
        ],
    ),
    (
        "Endpoint status",
        "short",
        [('understudy_endpoint_status{endpoint=~"$endpoint"} == 1', "{{endpoint}} {{status}}")],
    ),
]


def dashboard() -> dict[str, Any]:
    """Build the dashboard."""
    panels = [
        {
            "id": number,
            "type": "timeseries",
            "title": title,
            "datasource": SOURCE,
            "gridPos": {"x": 12 * ((number - 1) % 2), "y": 8 * ((number - 1) // 2), "w": 12, "h": 8},
            "fieldConfig": {
                "defaults": {"unit": unit, "min": 0, "custom": {"lineWidth": 2}},
                "overrides": [],
            },
            "options": {
                "tooltip": {"mode": "multi"},
                "legend": {"displayMode": "list", "placement": "bottom"},
            },
            "targets": [
                {"refId": chr(65 + at), "expr": expression, "legendFormat": legend, "datasource": SOURCE}
                for at, (expression, legend) in enumerate(queries)
            ],
        }
        for number, (title, unit, queries) in enumerate(PANELS, 1)
    ]
    return {
        "uid": "understudy",
        "title": "Understudy",
        "tags": ["understudy"],
        "schemaVersion": 39,
        "version": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                _variable("endpoint", "label_values(understudy_endpoint_status, endpoint)"),
                _variable(
                    "variant", 'label_values(understudy_variant_weight{endpoint=~"$endpoint"}, variant)'
                ),
            ]
        },
        "panels": panels,
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": SOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }


def main() -> int:
    """Write, or check."""
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{TARGET.name} is stale: python {Path(__file__).name}\n")
        return 1
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
