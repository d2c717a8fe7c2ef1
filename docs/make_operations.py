"""Writes docs/operations.md from the registry of operations; ``--check`` only tells whether it is stale.

    python docs/make_operations.py [--check]

Owns the notes beside the table.  Main function: :func:`render`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from understudy.operations.registry import OPERATIONS
from understudy.operations.sagemaker.unsupported import UNSUPPORTED

PAGE = Path(__file__).with_name("operations.md")

SERVICES = {
    "sagemaker": "SageMaker",
    "sagemaker-runtime": "SageMaker Runtime",
    "cloudwatch": "CloudWatch",
    "logs": "CloudWatch Logs",
    "s3": "S3",
    "sts": "STS",
    "iam": "IAM",
}

# The routers answer these themselves; they are no functions of the registry.
ROUTED = {
    ("sagemaker-runtime", "InvokeEndpoint"): "Ask a model; by weight, or the variant named by TargetVariant.",
    (
        "sagemaker-runtime",
        "InvokeEndpointWithResponseStream",
    ): "Ask a model whose answer comes in parts.",
}

NOTES = {
    ("sagemaker", "CreateModel"): "The artifact must be there already. Any role's ARN is taken.",
    ("sagemaker", "CreateEndpointConfig"): "1 to 10 production variants. A sum of weights of 0 is taken.",
    ("sagemaker", "CreateEndpoint"): "InService or Failed when the models are loaded or can't be.",
    ("sagemaker", "DescribeEndpoint"): "`DeployedImages[].ResolvedImage` is the environment that runs it.",
    ("sagemaker", "DeleteEndpoint"): "Also of one that is coming back after a restart of the server.",
    (
        "sagemaker",
        "UpdateEndpoint",
    ): "All at once, canary, linear, rolling; alarms; see [rollouts](guides/rollouts.md).",
    (
        "sagemaker",
        "UpdateEndpointWeightsAndCapacities",
    ): "Counts of several variants in one call; no count 0.",
    ("sagemaker", "ListEndpoints"): "`NameContains` matches in either case; so do the other lists.",
    ("sagemaker-runtime", "InvokeEndpoint"): "Bodies to 6,291,456 bytes both ways; 60 s.",
    ("sagemaker-runtime", "InvokeEndpointWithResponseStream"): "60 s between parts.",
    ("cloudwatch", "PutMetricData"): "Readable at once. Namespaces `AWS/…` are the server's own.",
    ("cloudwatch", "GetMetricData"): "Metric math without SEARCH, anomaly bands and Lambda.",
    ("cloudwatch", "GetMetricStatistics"): "Percentiles within 1 %; counts and sums exact.",
    ("cloudwatch", "PutMetricAlarm"): "No anomaly bands, PromQL, wall clock windows. Webhooks by setting.",
    ("cloudwatch", "PutCompositeAlarm"): "Circles are refused.",
    ("logs", "FilterLogEvents"): "A term is found inside a longer word too.",
    ("s3", "CreateBucket"): "No constraint, or the server's own region.",
    ("s3", "CopyObject"): "Sources above 5 GiB too.",
    ("s3", "GetBucketVersioning"): "Buckets are not versioned.",
    ("s3", "PutObjectTagging"): "Moves LastModified.",
    ("s3", "DeleteObjectTagging"): "Moves LastModified.",
    ("sts", "GetCallerIdentity"): "One account, one role.",
    ("iam", "GetRole"): "The one execution role; any other name is NoSuchEntity.",
}

HEAD = """\
# Operations

<!-- Written by docs/make_operations.py: change that file or the code, then run it. -->

What this version has, by service: {count} operations. Requests are validated against AWS's own models
(botocore's), so every constraint, enum and required member is checked, with AWS's wording. Every other
operation of these services answers one documented error: `NotImplemented`, HTTP status 501, naming the
operation. General differences from AWS are in [differences.md](differences.md).
"""

UNSUPPORTED_HEAD = """\
## Members that are refused

A request that gives one of these a value that asks for something is refused with a `ValidationException`
naming the member. Everything else is accepted and shown again by Describe.

| in | members |
|---|---|
"""


def operations() -> dict[tuple[str, str], str]:
    """Return what each operation does: the first line of its function's docstring."""
    found = dict(ROUTED)
    for key, function in OPERATIONS.items():
        found[key] = (function.__doc__ or "").splitlines()[0].replace("``", "`")
    return found


def render() -> str:
    """Render the page."""
    every = operations()
    unknown = sorted(key for key in NOTES if key not in every)
    if unknown:
        raise SystemExit(f"Notes about operations that are not there: {unknown}")
    parts = [HEAD.format(count=len(every))]
    for service, title in SERVICES.items():
        names = sorted(name for of, name in every if of == service)
        parts.append(f"\n## {title}\n\nOperations: {len(names)}.\n\n")
        parts.append("| operation | what it does | notes, differences from AWS |\n|---|---|---|\n")
        for name in names:
            what, note = every[service, name], NOTES.get((service, name), "")
            parts.append(f"| {name} | {what} | {note} |\n".replace("|  |", "| |"))
    left = {service for service, _ in every} - set(SERVICES)
    if left:
        raise SystemExit(f"Services without a heading: {sorted(left)}")
    parts.append("\n" + UNSUPPORTED_HEAD)
    for where, members in UNSUPPORTED.items():
        parts.append(f"| {where} | {', '.join(f'`{name}`' for name in members)} |\n")
    return "".join(parts)


def main() -> int:
    """Write the page, or say that it is stale."""
    text = render()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            sys.stderr.write("docs/operations.md is stale: run python docs/make_operations.py\n")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
