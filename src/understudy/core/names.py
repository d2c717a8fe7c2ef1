"""Names and ARNs.

Source: botocore's service models for the patterns; recorded notebook outputs for the ARN forms.
"""

from __future__ import annotations

from dataclasses import dataclass

ENDPOINT_LOG_GROUP_PREFIX = "/aws/sagemaker/Endpoints/"


@dataclass(frozen=True)
class Place:
    """The one account and region that a server speaks for."""

    account_id: str = "123456789012"
    region: str = "us-east-1"

    def arn(self, resource_type: str, name: str, service: str = "sagemaker") -> str:
        """Render the ARN of a resource; the name keeps its case, as AWS does since 2024.

        >>> Place().arn("endpoint-config", "Blue")
        'arn:aws:sagemaker:us-east-1:123456789012:endpoint-config/Blue'
        """
        return f"arn:aws:{service}:{self.region}:{self.account_id}:{resource_type}/{name}"

    @property
    def role_arn(self) -> str:
        """The execution role that ``get_execution_role`` finds."""
        return f"arn:aws:iam::{self.account_id}:role/understudy"


def log_group(endpoint_name: str) -> str:
    """Name the CloudWatch log group of an endpoint's workers.

    >>> log_group("churn")
    '/aws/sagemaker/Endpoints/churn'
    """
    return ENDPOINT_LOG_GROUP_PREFIX + endpoint_name
