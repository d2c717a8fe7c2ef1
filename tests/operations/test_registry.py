"""Every operation is one that botocore knows, and no module's entry hides another's."""

from __future__ import annotations

import botocore.session

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
from understudy.operations.registry import OPERATIONS
from understudy.operations.sagemaker import (
    endpoint_configs,
    endpoint_updates,
    endpoints,
    experiment_updates,
    experiments,
    models,
    tags,
)


def test_every_key_is_a_real_operation() -> None:
    session = botocore.session.get_session()
    for service, operation in OPERATIONS:
        assert operation in session.get_service_model(service).operation_names, (service, operation)


def test_nothing_is_registered_twice() -> None:
    endpoint = (endpoint_configs, endpoints, endpoint_updates, experiments, experiment_updates)
    alarms = (cloudwatch_alarms, cloudwatch_alarm_changes, cloudwatch_alarm_listing, cloudwatch_tags)
    modules = (models, *endpoint, tags, cloudwatch, *alarms, logs, s3, sts, iam)
    assert sum(len(module.OPERATIONS) for module in modules) == len(OPERATIONS)
