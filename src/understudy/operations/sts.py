"""STS: who the caller is.  There is one account and one role, and every valid key acts as it.

The form ``assumed-role/ROLE/SESSION`` is what the SageMaker SDK's ``get_execution_role`` turns into the
role's name, which it then looks up by ``iam:GetRole``.

Source: sagemaker 2.257.7, ``Session.get_caller_identity_arn``; botocore's sts model.
"""

from __future__ import annotations

from typing import Any

from understudy.core.names import Place
from understudy.operations.iam import role_id, role_name
from understudy.operations.services import Operation, Services

SESSION = "session"


def caller_arn(place: Place) -> str:
    """Name who calls: there is one access key, and this is whom it speaks for."""
    return f"arn:aws:sts::{place.account_id}:assumed-role/{role_name(place)}/{SESSION}"


def get_caller_identity(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Name the account and the role's session."""
    account = services.place.account_id
    return {
        "Account": account,
        "Arn": caller_arn(services.place),
        "UserId": f"{role_id(services.place)}:{SESSION}",
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sts", "GetCallerIdentity"): get_caller_identity,
}
