"""STS: who the caller is.  There is one account and one role, and every valid key acts as it.

The form ``assumed-role/ROLE/SESSION`` is what the SageMaker SDK's ``get_execution_role`` turns into the
role's name, which it then looks up by ``iam:GetRole``.

Source: sagemaker 2.257.7, ``Session.get_caller_identity_arn``; botocore's sts model.
"""

from __future__ import annotations

from typing import Any

from understudy.operations.iam import role_id, role_name
from understudy.operations.services import Operation, Services

SESSION = "session"


def get_caller_identity(services: Services, request: dict[str, Any]) -> dict[str, Any]:
    """Name the account and the role's session."""
    account = services.place.account_id
    return {
        "Account": account,
        "Arn": f"arn:aws:sts::{account}:assumed-role/{role_name(services.place)}/{SESSION}",
        "UserId": f"{role_id(services.place)}:{SESSION}",
    }


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("sts", "GetCallerIdentity"): get_caller_identity,
}
