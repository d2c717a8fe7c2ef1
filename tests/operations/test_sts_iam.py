"""The caller's identity and the execution role, as the SageMaker SDK puts them together."""

from __future__ import annotations

import json
import re
from typing import Any, cast
from urllib.parse import unquote

import botocore.session
import pytest

from understudy.core.errors import ApiError
from understudy.core.names import Place
from understudy.operations.iam import get_role
from understudy.operations.services import Services
from understudy.operations.sts import get_caller_identity

NOTHING = cast(Any, None)


def services(place: Place) -> Services:
    return Services(
        records=NOTHING,
        buckets=NOTHING,
        objects=NOTHING,
        series=NOTHING,
        logs=NOTHING,
        stages=cast(Any, None),
        evidence=cast(Any, None),
        assignments=cast(Any, None),
        outcomes=NOTHING,
        clock=NOTHING,
        entropy=NOTHING,
        place=place,
        endpoint_url="http://127.0.0.1:8080",
        nudge=lambda: None,
    )


@pytest.mark.parametrize("place", [Place(), Place("000000000001", "eu-central-1")])
def test_get_execution_role_finds_the_role(place: Place) -> None:
    """The steps of ``sagemaker.get_execution_role()``, version 2.257.7."""
    at = services(place)
    identity = get_caller_identity(at, {})
    assert identity["Account"] == place.account_id
    # From the session's ARN to the role's, then its name, then GetRole, then the check at the end.
    role = re.sub(r"^(.+)sts::(\d+):assumed-role/(.+?)/.*$", r"\1iam::\2:role/\3", identity["Arn"])
    found = get_role(at, {"RoleName": role[role.rfind("/") + 1 :]})["Role"]
    assert found["Arn"] == role == place.role_arn
    assert ":role/" in found["Arn"]
    assert identity["UserId"] == f"{found['RoleId']}:session"


def test_the_role_is_what_botocore_expects() -> None:
    role = get_role(services(Place()), {"RoleName": "understudy"})["Role"]
    shape = botocore.session.get_session().get_service_model("iam").operation_model("GetRole").output_shape
    members = shape.members["Role"]
    assert set(members.required_members) <= set(role) <= set(members.members)
    assert re.fullmatch(r"AROA[A-Z0-9]{17}", role["RoleId"])
    trust = json.loads(unquote(role["AssumeRolePolicyDocument"]))
    assert trust["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}


def test_another_role_is_unknown() -> None:
    with pytest.raises(ApiError, match="role with name admin cannot be found") as caught:
        get_role(services(Place()), {"RoleName": "admin"})
    assert (caught.value.code, caught.value.status) == ("NoSuchEntity", 404)
