"""Models as SageMaker has them: what CreateModel was told, and what an instance must run.

Owns :class:`Model` and :class:`Container`; :func:`containers_of` is the way from one to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Model:
    """A CreateModel request that was accepted.

    Attributes:
        request: The validated CreateModel input by its wire names (Tags left out), echoed by DescribeModel.
    """

    KIND: ClassVar[str] = "model"
    name: str
    arn: str
    request: dict[str, Any]
    created_at_s: float
    modified_at_s: float


@dataclass(frozen=True)
class Container:
    """One container of a model, resolved enough to be started without reading the Model again.

    Attributes:
        image: Image URI or short name, as given.
        model_data_url: ``s3://`` or ``file://`` of a ``model.tar.gz`` or of a prefix; None without artifact.
        compressed: False when ``model_data_url`` is a prefix of plain objects (ModelDataSource
            CompressionType None).
        environment: The container's Environment.
        hostname: ContainerHostname, else ``container-N`` (1-based) in a pipeline, ``primary`` alone.
    """

    image: str
    model_data_url: str | None = None
    compressed: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    hostname: str = "primary"


def containers_of(request: Mapping[str, Any]) -> tuple[Container, ...]:
    """Read the containers, in serial order, from a CreateModel input.

    Args:
        request: Validated CreateModel input: PrimaryContainer or Containers.
    """
    definitions = request.get("Containers") or [request["PrimaryContainer"]]
    alone = len(definitions) == 1
    containers = []
    for number, definition in enumerate(definitions, start=1):
        url = definition.get("ModelDataUrl")
        compressed = True
        source = definition.get("ModelDataSource", {}).get("S3DataSource")
        if source is not None:
            url = source["S3Uri"]
            compressed = source["CompressionType"] != "None"
        containers.append(
            Container(
                image=definition["Image"],
                model_data_url=url,
                compressed=compressed,
                environment=dict(definition.get("Environment", {})),
                hostname=definition.get("ContainerHostname")
                or ("primary" if alone else f"container-{number}"),
            )
        )
    return tuple(containers)


@dataclass(frozen=True)
class Tags:
    """The tags of one resource, by its ARN."""

    KIND: ClassVar[str] = "tags"
    name: str  # the resource's ARN
    tags: dict[str, str]
    created_at_s: float
    modified_at_s: float
