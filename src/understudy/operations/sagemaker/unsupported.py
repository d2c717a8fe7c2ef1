"""What requests may not ask of this version, in one table that is meant to get shorter.

A member is refused when its test says so, with its name in the text; everything else is accepted
and echoed.  Main function: :func:`refuse_unsupported`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from understudy.operations.sagemaker.wording import not_supported

Test = Callable[[Any], bool]


def _given(value: Any) -> bool:
    """The member asks for something: it is no explicit false and no empty text, list or structure."""
    return value is not None and value is not False and value not in ("", [], {})


UNSUPPORTED: dict[str, dict[str, Test]] = {
    "container": {
        "ModelPackageName": _given,
        "InferenceSpecificationName": _given,
        "AdditionalModelDataSources": _given,
        "MultiModelConfig": _given,
        "Mode": lambda mode: bool(mode == "MultiModel"),
    },
    "S3DataSource": {
        "ManifestS3Uri": _given,
        "HubAccessConfig": _given,
    },
    "endpoint configuration": {
        "AsyncInferenceConfig": _given,
        "CrossRegionTrafficConfig": _given,
        "ExplainerConfig": _given,
        "KmsKeyId": _given,
    },
    "data capture": {
        "KmsKeyId": _given,
    },
    "inference experiment": {
        "KmsKey": _given,
    },
    "data storage": {
        "KmsKey": _given,
    },
    "production variant": {
        "AcceleratorPartitionLayouts": _given,
        "AcceleratorType": _given,
        "CapacityReservationConfig": _given,
        "CoreDumpConfig": _given,
        "EnableSSMAccess": _given,
        "InstancePools": _given,
        "ManagedInstanceScaling": lambda scaling: scaling.get("Status") == "ENABLED",
        "RoutingConfig": lambda routing: routing["RoutingStrategy"] in ("PREFIX_AWARE", "KV_AWARE"),
        "ServerlessConfig": _given,
    },
    "desired weight and capacity": {
        "ServerlessUpdateConfig": _given,
    },
}


def refuse_unsupported(what: str, members: Mapping[str, Any], path: str) -> None:
    """Refuse the members of a structure that this version does not carry out.

    Args:
        what: Key of :data:`UNSUPPORTED`.
        path: Where the structure is in the request, e.g. ``ProductionVariants.1.member``; ``""`` at the top.
    Raises:
        ValidationException: names the member.
    """
    for name, test in UNSUPPORTED[what].items():
        if name in members and test(members[name]):
            raise not_supported(f"{path}.{name}" if path else name)
