"""What an endpoint captured and measured, over S3 and CloudWatch.  Main class: :class:`EndpointSource`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click

from understudy.capture.growing import bucket_and_prefix
from understudy.capture.reader import Captured, read_window
from understudy.cli.connection import boto3_client

MAX_DATAPOINTS = 1438  # CloudWatch gives 1440; both ends of a window are rounded


class EndpointSource:
    """What an endpoint captured, and what CloudWatch says of it.

    Raises:
        click.ClickException: from every method, when the server refuses; the text says what to do.
    """

    def __init__(self, server: Any, endpoint: str, destination: str | None) -> None:
        self._endpoint = endpoint
        self._s3 = boto3_client(server, "s3")
        self._cloudwatch = boto3_client(server, "cloudwatch")
        self._production: list[str] = []
        self._shadows: list[str] = []
        self._destination = destination or self._describe(boto3_client(server, "sagemaker"))

    def _describe(self, sagemaker: Any) -> str:
        try:
            found = sagemaker.describe_endpoint(EndpointName=self._endpoint)
            config = sagemaker.describe_endpoint_config(EndpointConfigName=found["EndpointConfigName"])
        except sagemaker.exceptions.ClientError as error:
            raise click.ClickException(
                f"{error.response['Error']['Message']} If the endpoint is gone, name its capture with "
                "--destination and its variants with --variants."
            ) from error
        self._production = [one["VariantName"] for one in config.get("ProductionVariants", [])]
        self._shadows = [one["VariantName"] for one in config.get("ShadowProductionVariants", [])]
        capture = config.get("DataCaptureConfig")
        if capture is None:
            raise click.ClickException(
                f"Endpoint {self._endpoint} captures nothing: give its EndpointConfig a DataCaptureConfig "
                "with Output among its CaptureOptions, or name an earlier capture with --destination."
            )
        return str(capture["DestinationS3Uri"])

    def variants(self, text: str | None) -> tuple[str, str]:
        """Tell which two variants are meant; ``production`` and ``shadow`` are the only ones of a kind."""
        names = [name.strip() for name in (text or "production,shadow").split(",")]
        if len(names) != 2 or not all(names):
            raise click.BadParameter(
                "write two names: production's,the candidate's.", param_hint="--variants"
            )
        return self._named(names[0]), self._named(names[1])

    def _named(self, name: str) -> str:
        known = [*self._production, *self._shadows]
        if name in known:
            return name
        kinds = {"production": self._production, "shadow": self._shadows}
        if name in kinds and len(kinds[name]) == 1:
            return kinds[name][0]
        if known:
            raise click.BadParameter(
                f"{name!r}: production variants are {', '.join(self._production) or 'none'}; shadow variants "
                f"are {', '.join(self._shadows) or 'none'}.",
                param_hint="--variants",
            )
        return name

    def read(self, variant: str, start_s: float, end_s: float, bad: list[str]) -> Iterator[Captured]:
        """Yield a variant's records of a window."""
        bucket, _ = bucket_and_prefix(self._destination)
        source = _S3Source(self._s3, bucket)
        records = read_window(
            source, self._destination, self._endpoint, variant, start_s, end_s, on_bad=bad.append
        )
        try:
            yield from records
        except self._s3.exceptions.ClientError as error:
            message = error.response["Error"]["Message"]
            raise click.ClickException(f"{self._destination} can't be read: {message}") from error

    def metrics(self, variant: str, start_s: float, end_s: float) -> dict[str, Any]:
        """Sum up CloudWatch's metrics of a window.

        Percentiles can't be joined: ``p99_us`` is the mean of the periods' (minutes', up to a day) p99,
        weighted by their requests.
        """
        points = self._points("ModelLatency", variant, start_s, end_s)
        counted = [(point["SampleCount"], point) for point in points]
        requests = sum(count for count, _ in counted)
        result: dict[str, Any] = {"requests": int(requests)}
        if requests:
            for name in ("p50", "p99"):
                known = [(count, point.get("ExtendedStatistics", {}).get(name)) for count, point in counted]
                weighed = [(count, value) for count, value in known if value is not None]
                total = sum(count for count, _ in weighed)
                if total:
                    result[f"{name}_us"] = sum(count * value for count, value in weighed) / total
            result["mean_us"] = sum(point["Sum"] for point in points) / requests
            result["max_us"] = max(point["Maximum"] for point in points)
        for name, metric in (("errors_4xx", "Invocation4XXErrors"), ("errors_5xx", "Invocation5XXErrors")):
            result[name] = int(sum(point["Sum"] for point in self._points(metric, variant, start_s, end_s)))
        return result

    def _points(self, metric: str, variant: str, start_s: float, end_s: float) -> list[dict[str, Any]]:
        period_s = 60 * max(1, -(-int(end_s - start_s) // (60 * MAX_DATAPOINTS)))
        query = {
            "Namespace": "AWS/SageMaker",
            "MetricName": metric,
            "Dimensions": [
                {"Name": "EndpointName", "Value": self._endpoint},
                {"Name": "VariantName", "Value": variant},
            ],
            "StartTime": datetime.fromtimestamp(start_s // 60 * 60, UTC),
            "EndTime": datetime.fromtimestamp(end_s, UTC),
            "Period": period_s,
        }
        # Plain and extended statistics can't be asked for together.
        plain = self._cloudwatch.get_metric_statistics(**query, Statistics=["SampleCount", "Sum", "Maximum"])[
            "Datapoints"
        ]
        if metric == "ModelLatency" and plain:
            answer = self._cloudwatch.get_metric_statistics(**query, ExtendedStatistics=["p50", "p99"])
            extended = {point["Timestamp"]: point["ExtendedStatistics"] for point in answer["Datapoints"]}
            plain = [{**point, "ExtendedStatistics": extended.get(point["Timestamp"], {})} for point in plain]
        return list(plain)


@dataclass(frozen=True)
class _S3Source:
    """Capture files over S3; implements ``capture.reader.Source``."""

    s3: Any
    bucket: str

    def keys(self, prefix: str, after: str) -> Iterator[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=prefix, StartAfter=after
        )
        for page in pages:
            for one in page.get("Contents", []):
                yield one["Key"]

    def read(self, key: str) -> Iterable[bytes]:
        body: Iterable[bytes] = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1 << 20)
        return body
