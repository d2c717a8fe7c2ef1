"""Every operation this version has, by botocore's service and operation names."""

from __future__ import annotations

from understudy.operations import (
    cloudwatch,
    cloudwatch_alarm_changes,
    cloudwatch_alarm_listing,
    cloudwatch_alarms,
    cloudwatch_tags,
    iam,
    logs,
    s3,
    sts,
)
from understudy.operations.sagemaker import (
    endpoint_configs,
    endpoint_updates,
    endpoints,
    experiment_updates,
    experiments,
    models,
    tags,
)
from understudy.operations.services import Operation

OPERATIONS: dict[tuple[str, str], Operation] = {
    **models.OPERATIONS,
    **endpoint_configs.OPERATIONS,
    **endpoints.OPERATIONS,
    **endpoint_updates.OPERATIONS,
    **experiments.OPERATIONS,
    **experiment_updates.OPERATIONS,
    **tags.OPERATIONS,
    **cloudwatch.OPERATIONS,
    **cloudwatch_alarms.OPERATIONS,
    **cloudwatch_alarm_changes.OPERATIONS,
    **cloudwatch_alarm_listing.OPERATIONS,
    **cloudwatch_tags.OPERATIONS,
    **logs.OPERATIONS,
    **s3.OPERATIONS,
    **sts.OPERATIONS,
    **iam.OPERATIONS,
}
