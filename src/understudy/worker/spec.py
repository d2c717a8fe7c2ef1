"""What a worker is told at its start: the spec file, as frozen values.

Owns reading and checking ``spec.json``. Refuses everything after that.

Main function: ``read_spec``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Container:
    """One container of the model.

    Attributes:
        hostname: ``primary`` or what the pipeline calls it; the error texts name it.
        python: Interpreter of the model's environment.
        model_dir: The unpacked artifact.
        code_dir: Where ``inference.py`` and its friends are, if anywhere.
        environment: Merged environment variables.
        loader: ``auto``, ``xgboost``, ``sklearn``, ``onnx``, ``pytorch``, ``script`` or ``command``.
        command: What to start for the ``command`` loader.
        image: The image URI asked for; its tag decides version-bound habits.
    """

    hostname: str
    python: str
    model_dir: Path
    code_dir: Path | None
    environment: Mapping[str, str]
    loader: str = "auto"
    command: tuple[str, ...] | None = None
    image: str = ""
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spec:
    """Everything a worker is told.

    Attributes:
        listen_fd: A bound, listening stream socket; None in a pipeline's child.
        connection_fd: A pipeline's child gets its one connection ready made.
        lifeline_fd: A pipe that reads EOF when the whole server is gone.
        status_path: Where to say how it goes.
        vcpus: How many threads a model call may use, at least 1.
        direct: Pipeline whose containers are invoked one by one instead of in series.
    """

    instance_id: str
    title: str
    listen_fd: int | None
    connection_fd: int | None
    lifeline_fd: int | None
    status_path: Path
    containers: tuple[Container, ...]
    vcpus: int = 1
    direct: bool = False
    shadow: bool = False
    max_body_bytes: int = 0
    raw: Mapping[str, Any] = field(default_factory=dict)


def read_spec(path: Path) -> Spec:
    """Read a spec file.

    Raises:
        ValueError: not JSON, or a required member is missing or of the wrong kind.
    """
    try:
        raw = json.loads(path.read_text("utf-8"))
        containers = tuple(_container(entry) for entry in raw["containers"])
        if not containers:
            raise ValueError("no containers")
        return Spec(
            instance_id=raw["instance_id"],
            title=raw.get("title", ""),
            listen_fd=raw.get("listen_fd"),
            connection_fd=raw.get("connection_fd"),
            lifeline_fd=raw.get("lifeline_fd"),
            status_path=Path(raw["status_path"]),
            containers=containers,
            vcpus=max(1, int(raw.get("vcpus") or 1)),
            direct=bool(raw.get("direct", False)),
            shadow=bool(raw.get("shadow", False)),
            max_body_bytes=int((raw.get("limits") or {}).get("max_body_bytes") or 0),
            raw=raw,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a worker's spec: {type(error).__name__}: {error}") from error


def _container(entry: Mapping[str, Any]) -> Container:
    code_dir = entry.get("code_dir")
    command = entry.get("command")
    return Container(
        hostname=entry.get("hostname") or "primary",
        python=entry.get("python") or "",
        model_dir=Path(entry["model_dir"]),
        code_dir=None if code_dir is None else Path(code_dir),
        environment={str(key): str(value) for key, value in (entry.get("environment") or {}).items()},
        loader=entry.get("loader") or "auto",
        command=None if not command else tuple(map(str, command)),
        image=entry.get("image") or "",
        packages=tuple(map(str, entry.get("packages") or ())),
    )
