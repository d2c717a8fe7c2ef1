"""Containers: what a model says it needs -> directories, an interpreter and environment variables.

Owns the joining of image, model data and code; refuses what :mod:`artifacts`, :mod:`environments` and
:mod:`images` refuse.  Main function: :meth:`ContainerPreparation.prepare`.

Source: the container contract of SageMaker's documentation and toolkits (SM_MODEL_DIR,
SAGEMAKER_PROGRAM, SAGEMAKER_SUBMIT_DIRECTORY, /opt/ml/model).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.core.models import Container
from understudy.core.names import Place
from understudy.runtimes.artifacts import Artifacts
from understudy.runtimes.environments import Environment, Environments
from understudy.runtimes.failures import PreparationFailed
from understudy.runtimes.images import Image, Images

_MODEL_MOUNT = "/opt/ml/model"
_MAX_REQUIREMENTS_BYTES = 1 << 20
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Prepared:
    """One container, ready to be started."""

    container: Container
    image: Image
    environment: Environment
    model_dir: Path
    code_dir: Path | None
    digest: str = ""

    def command(self) -> list[str] | None:
        """Name the program that serves ``/ping`` and ``/invocations`` itself, if the container has one.

        In order: the image entry's command, the container's ``UNDERSTUDY_COMMAND``, a program ``serve`` or
        ``serve.py`` in the artifact (SageMaker starts a container as ``docker run IMAGE serve``) that has
        no inference.py beside it.

        Raises:
            PreparationFailed: UNDERSTUDY_COMMAND can't be read.
        """
        if self.image.command is not None:
            return list(self.image.command)
        told = self.container.environment.get("UNDERSTUDY_COMMAND", "")
        if told:
            try:
                words = shlex.split(told)
            except ValueError as error:
                raise PreparationFailed(f"UNDERSTUDY_COMMAND={told!r} can't be read: {error}.") from error
            return [self.environment.python, *words[1:]] if words[:1] == ["python"] else words
        for directory in (self.code_dir, self.model_dir):
            if directory is None or (directory / "inference.py").is_file():
                continue
            for name in ("serve", "serve.py"):
                program = directory / name
                if program.is_file():
                    return [*_interpreter(program, self.environment.python), str(program)]
        return None

    def spec(self, vcpus: int, scratch: Path, marks: dict[str, str], place: Place) -> dict[str, Any]:
        """Render the container's part of spec.json.

        Args:
            scratch: Becomes HOME and TMPDIR.
            marks: Variables that win over all others.
        """
        variables = clean_environment(self.environment.python, vcpus, scratch)
        variables |= {
            "AWS_REGION": place.region,
            "AWS_DEFAULT_REGION": place.region,
            "SAGEMAKER_REGION": place.region,
            "SM_MODEL_DIR": str(self.model_dir),
            "SM_NUM_CPUS": str(_threads(vcpus)),
            "SM_NUM_GPUS": "0",
            **self.container.environment,
        }
        if self.code_dir is not None:
            variables["SAGEMAKER_SUBMIT_DIRECTORY"] = str(self.code_dir)
        return {
            "hostname": self.container.hostname,
            "python": self.environment.python,
            "model_dir": str(self.model_dir),
            "code_dir": None if self.code_dir is None else str(self.code_dir),
            "environment": variables | marks,
            "loader": self.image.loader,
            "command": self.command(),
            "image": self.container.image,
            "packages": list(self.environment.packages),
        }


class ContainerPreparation:
    """Makes containers runnable on this machine.

    Args:
        images: What stands in for an image.
        artifacts: Model data and code.
        environments: Interpreters.
    """

    def __init__(self, images: Images, artifacts: Artifacts, environments: Environments) -> None:
        self._images = images
        self._artifacts = artifacts
        self._environments = environments

    def prepare(
        self,
        container: Container,
        *,
        timeout_s: float,
        progress: Callable[[str], None],
        check: Callable[[], None],
    ) -> Prepared:
        """Fetch and build all that a container needs.

        Args:
            timeout_s: For its model data, real seconds.
            progress: Told short phrases.
            check: Raises when nobody wants the container any more.

        Raises:
            PreparationFailed: with the text for FailureReason.
            Cancelled: from ``check`` or a build that was ended.
        """
        image = self._images.find(container.image)  # the cheapest refusal first
        if container.model_data_url is None:
            model_dir, digest = self._artifacts.empty().path, ""
        else:
            progress("fetching model data")
            fetched = self._artifacts.fetch(
                container.model_data_url, compressed=container.compressed, timeout_s=timeout_s, check=check
            )
            model_dir, digest = fetched.path, fetched.digest
        check()
        code_dir = self._code_dir(container, model_dir, timeout_s, check)
        environment = self._environments.resolve(image, _requirements(code_dir), progress)
        check()
        return Prepared(container, image, environment, model_dir, code_dir, digest)

    def close(self) -> None:
        """End builds under way."""
        self._environments.close()

    def _code_dir(
        self, container: Container, model_dir: Path, timeout_s: float, check: Callable[[], None]
    ) -> Path | None:
        """Find the user's code: SAGEMAKER_SUBMIT_DIRECTORY, else ``code/`` in the artifact, else none."""
        submitted = container.environment.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
        if submitted.startswith(("s3://", "file://")):
            return self._artifacts.fetch(submitted, compressed=True, timeout_s=timeout_s, check=check).path
        if submitted:
            inside = Path(submitted)
            if inside.is_relative_to(_MODEL_MOUNT):
                inside = inside.relative_to(_MODEL_MOUNT)
            code_dir = Path(os.path.realpath(model_dir / inside))
            if not code_dir.is_relative_to(model_dir) or not code_dir.is_dir():
                raise PreparationFailed(
                    f"SAGEMAKER_SUBMIT_DIRECTORY is {submitted!r}: expected s3:// or file:// of a "
                    f"sourcedir.tar.gz, or a directory of the model's artifact below {_MODEL_MOUNT}."
                )
            return code_dir
        if (model_dir / "code").is_dir():
            return model_dir / "code"
        program = container.environment.get("SAGEMAKER_PROGRAM", "")
        return model_dir if program and (model_dir / program).is_file() else None


def _interpreter(program: Path, python: str) -> list[str]:
    """Choose what runs a program of an artifact, whose execute permission does not survive unpacking."""
    with program.open("rb") as file:
        first = file.readline(256)
    if first.startswith(b"#!") and b"python" not in first:
        return first[2:].decode("utf-8", "replace").split()
    return [python]


def clean_environment(python: str, vcpus: int, scratch: Path) -> dict[str, str]:
    """Return the variables every model process gets: nothing of the server's own environment."""
    binaries = str(Path(python).parent)
    variables = {
        "PATH": f"{binaries}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONUNBUFFERED": "1",
    }
    variables.update(dict.fromkeys(_THREAD_VARIABLES, str(_threads(vcpus))))
    return variables


def _threads(vcpus: int) -> int:
    """Limit an instance type's vCPUs to the processors that are there."""
    return max(1, min(vcpus, len(os.sched_getaffinity(0))))


def _requirements(code_dir: Path | None) -> bytes | None:
    if code_dir is None:
        return None
    path = code_dir / "requirements.txt"
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_REQUIREMENTS_BYTES:
        raise PreparationFailed("code/requirements.txt of the model's artifact is larger than 1 MiB.")
    return path.read_bytes()
