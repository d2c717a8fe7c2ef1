"""Which operations of the API the console may call, and which of them change something.

Owns the lists; the console's face refuses every other operation, and those of :data:`WRITES` where it is
read-only.  All of them speak JSON on the wire.  Of Understudy's own calls GET reads, and what
:func:`only_asks` names.
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

_QUESTIONS = frozenset({"guardrails", "plan", "verdict"})


def only_asks(method: str, path: str) -> bool:
    """Tell whether one of Understudy's own calls changes nothing: a POST may carry a question.

    >>> only_asks("POST", "endpoints/churn/guardrails"), only_asks("POST", "endpoints/churn/rollback")
    (True, False)
    """
    return method == "GET" or (method == "POST" and path.rpartition("/")[2] in _QUESTIONS)
