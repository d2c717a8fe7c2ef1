"""IAM: the one execution role, as far as the SageMaker SDK asks for it.

Roles grant nothing here: SageMaker operations accept any role's ARN and echo it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from urllib.parse import quote

from understudy.core.errors import ApiError
from understudy.core.names import Place
from understudy.operations.services import Operation, Services

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}
BUILT_IN_AT_S = 0.0  # the role was never made: it is there from the beginning of time


def role_name(place: Place) -> str:
    """Name the execution role.

    >>> role_name(Place())
    'understudy'
    """
    return place.role_arn.rsplit("/", 1)[-1]


def role_id(place: Place) -> str:
    """Make the role's stable id: ``AROA`` and 17 letters and digits, as AWS's."""
    digest = hashlib.sha256(place.role_arn.encode()).digest()
    return "AROA" + base64.b32encode(digest).decode()[:17]


def get_role(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Tell the execution role.

    Raises:
        ApiError: NoSuchEntity 404, any other name.
    """
    place, name = services.place, request["RoleName"]
    if name != role_name(place):
        raise ApiError(
            f"The role with name {name} cannot be found. Understudy has one role: {place.role_arn}.",
            code="NoSuchEntity",
            status=404,
        )
    return {
        "Role": {
            "Path": "/",
            "RoleName": name,
            "RoleId": role_id(place),
            "Arn": place.role_arn,
            "CreateDate": BUILT_IN_AT_S,
            "AssumeRolePolicyDocument": quote(json.dumps(TRUST), safe=""),  # botocore unquotes and parses
            "MaxSessionDuration": 3600,
        }
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("iam", "GetRole"): get_role,
}
