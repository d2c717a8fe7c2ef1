"""Which operations of the API the console may call, and which of them change something.

Owns the two lists; the console's face refuses every other operation, and those of :data:`WRITES` where it
is read-only.  All of them speak JSON on the wire.
"""

from __future__ import annotations

READS: frozenset[tuple[str, str]] = frozenset(
    {
        *(
            ("sagemaker", name)
            for name in (
                "DescribeEndpoint",
                "DescribeEndpointConfig",
                "DescribeInferenceExperiment",
                "DescribeModel",
                "ListEndpointConfigs",
                "ListEndpoints",
                "ListInferenceExperiments",
                "ListModels",
                "ListTags",
            )
        ),
        ("cloudwatch", "DescribeAlarmHistory"),
        ("cloudwatch", "DescribeAlarms"),
        ("cloudwatch", "DescribeAlarmsForMetric"),
        ("cloudwatch", "GetMetricData"),
        ("cloudwatch", "GetMetricStatistics"),
        ("cloudwatch", "ListMetrics"),
        ("logs", "DescribeLogGroups"),
        ("logs", "DescribeLogStreams"),
        ("logs", "FilterLogEvents"),
        ("logs", "GetLogEvents"),
    }
)

WRITES: frozenset[tuple[str, str]] = frozenset(
    {
        *(
            ("sagemaker", name)
            for name in (
                "CreateEndpoint",
                "CreateEndpointConfig",
                "CreateInferenceExperiment",
                "DeleteEndpoint",
                "DeleteEndpointConfig",
                "DeleteInferenceExperiment",
                "DeleteModel",
                "StartInferenceExperiment",
                "StopInferenceExperiment",
                "UpdateEndpoint",
                "UpdateEndpointWeightsAndCapacities",
                "UpdateInferenceExperiment",
            )
        ),
        ("cloudwatch", "DeleteAlarms"),
        ("cloudwatch", "PutMetricAlarm"),
        ("cloudwatch", "SetAlarmState"),
    }
)
