"""Which loader takes a container's artifact, and a load failure told in one place.

Owns the choice and the wording of failures (file and line of user code, what to do). Refuses requests.

Main function: ``load``.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

from .calls import Handler, LoadFailure, describe
from .spec import Container


def load(container: Container, vcpus: int) -> Handler:
    """Load a container's model with the loader it asks for, or the one its files point to.

    Raises:
        LoadFailure: the artifact can't be served; reason and detail are fit for a FailureReason.
    """
    loader = choose_loader(container)
    try:
        return _LOADERS[loader](container, vcpus)
    except LoadFailure:
        raise
    except MemoryError as error:
        raise LoadFailure("the model does not fit in the instance's memory", describe(error)) from error
    except (Exception, SystemExit) as error:
        traceback.print_exc(file=sys.stderr)
        raise LoadFailure(
            f"the model can't be loaded: {describe(error)}", place_of(error, container)
        ) from error


def place_of(error: BaseException, container: Container) -> str:
    """Say where in the user's code an exception arose: ``file:line in function: source line``.

    A SyntaxError tells its own place. Frames of installed libraries are passed over.
    """
    own = [directory for directory in (container.code_dir, container.model_dir) if directory is not None]
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_shorten(error.filename, own)}:{error.lineno}: {(error.text or '').strip()}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(frame.filename.startswith(f"{directory}{os.sep}") for directory in own):
            return f"{_shorten(frame.filename, own)}:{frame.lineno} in {frame.name}: {frame.line or ''}"
    last = traceback.extract_tb(error.__traceback__)[-1:]
    return f"{Path(last[0].filename).name}:{last[0].lineno} in {last[0].name}" if last else ""


def _shorten(filename: str, own: list[Path]) -> str:
    for directory in own:
        if filename.startswith(f"{directory}{os.sep}"):
            return str(Path(filename).relative_to(directory.parent))
    return Path(filename).name


def choose_loader(container: Container) -> str:
    """Choose the loader: command, user code, what the image names, else by files; in this order.

    User code wins over the image's own loader, as in SageMaker's framework containers.

    Raises:
        LoadFailure: an unknown loader, or nothing that any loader takes.
    """
    if container.loader != "auto" and container.loader not in _LOADERS:
        raise LoadFailure(
            f"unknown loader {container.loader!r}", f"Known: auto, {', '.join(sorted(_LOADERS))}."
        )
    if container.command or container.loader == "command":
        return "command"
    if script_of(container) is not None:
        return "script"
    if container.loader != "auto":
        return container.loader
    image = container.image.lower()
    for word, loader in (("xgboost", "xgboost"), ("scikit-learn", "sklearn"), ("sklearn", "sklearn")):
        if word in image:
            return loader
    names = (
        sorted(path.name for path in container.model_dir.iterdir()) if container.model_dir.is_dir() else []
    )
    for endings, loader in (
        (("xgboost-model", ".ubj", ".bst", ".xgb", "xgboost.model"), "xgboost"),
        ((".onnx",), "onnx"),
        ((".joblib", ".skops", ".pkl", ".pickle"), "sklearn"),
        ((".pt", ".pth"), "pytorch"),
        ((".json", ".model"), "xgboost"),
    ):
        if any(name.endswith(endings) for name in names):
            return loader
    raise LoadFailure(
        "no model found in the artifact",
        f"It holds {', '.join(names) or 'nothing'}; expected xgboost-model, *.ubj, *.json, *.joblib, *.pkl, "
        "*.skops, *.onnx, *.pt, or code/inference.py.",
    )


def script_of(container: Container) -> Path | None:
    """Find the user's script: SAGEMAKER_PROGRAM in the code directory, else ``inference.py`` there."""
    program = container.environment.get("SAGEMAKER_PROGRAM", "")
    directories = [container.code_dir, container.model_dir / "code", container.model_dir]
    for directory in directories:
        if directory is None:
            continue
        for name in (program, "inference.py"):
            if name and (directory / name).is_file():
                return directory / name
    if program:
        raise LoadFailure(
            f"SAGEMAKER_PROGRAM {program} is not in the artifact",
            "Put it in code/ of the model.tar.gz, or in the archive that SAGEMAKER_SUBMIT_DIRECTORY names.",
        )
    return None


def max_batch_rows(environment: Any) -> int:
    """Read UNDERSTUDY_MAX_BATCH_ROWS, 512 by default; 1, one request at a time, with UNDERSTUDY_BATCH=0.

    Raises:
        LoadFailure: not a whole number of at least 1.
    """
    asked = whole_number(environment, "UNDERSTUDY_MAX_BATCH_ROWS", 512)
    return 1 if asked_batch(environment) is False else asked


def asked_batch(environment: Any) -> bool | None:
    """Read UNDERSTUDY_BATCH: whether requests may share a prediction; None leaves it to the model.

    Raises:
        LoadFailure: neither 0 nor 1.
    """
    text = environment.get("UNDERSTUDY_BATCH", "").strip().lower()
    if text not in ("", "0", "1", "false", "true"):
        raise LoadFailure(f"UNDERSTUDY_BATCH={text[:40]} is neither 0 nor 1", "Correct the environment.")
    return None if text == "" else text in ("1", "true")


def whole_number(environment: Any, name: str, default: int) -> int:
    """Read a positive whole number from the container's environment.

    Raises:
        LoadFailure: it is something else.
    """
    text = environment.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdigit()) or int(text) < 1:
        raise LoadFailure(f"{name}={text} is not a whole number of at least 1", "Correct the environment.")
    return int(text)


def _load_xgboost(container: Container, vcpus: int) -> Handler:
    import xgboost

    from .broken import BrokenHandler
    from .sklearn_model import EstimatorHandler
    from .xgboost_files import find_artifact, load_booster
    from .xgboost_model import XGBoostHandler, image_version
    from .xgboost_native import Predictor

    environment = container.environment
    version = image_version(container.image, xgboost.__version__)
    as_aws = environment.get("UNDERSTUDY_AWS_PICKLES", "").lower() in ("1", "true")
    path = find_artifact(container.model_dir)
    try:
        loaded, note = load_booster(path, xgboost, rescue=not as_aws)
    except LoadFailure as failure:
        if as_aws and version < (1, 3):
            # These containers answer /ping without loading, and fail every request (seen on AWS).
            return BrokenHandler("xgboost", f"Unable to load model: {failure.reason}. {failure.detail}")
        raise
    if not isinstance(loaded, xgboost.Booster):
        return EstimatorHandler(loaded, note=note, environment=environment, default_accept="text/csv")
    return XGBoostHandler(
        Predictor(loaded, xgboost, vcpus),
        note=note,
        joined_by_comma=version < (1, 3),
        for_batch_transform=environment.get("SAGEMAKER_BATCH", "").lower() in ("1", "true"),
        max_batch_rows=max_batch_rows(environment),
    )


def _load_sklearn(container: Container, vcpus: int) -> Handler:
    from .sklearn_model import load_estimator

    handler: Handler = load_estimator(container, vcpus)
    return handler


def _load_onnx(container: Container, vcpus: int) -> Handler:
    from .onnx_model import load_onnx

    handler: Handler = load_onnx(container, vcpus)
    return handler


def _load_pytorch(container: Container, vcpus: int) -> Handler:
    from .script_model import load_script

    return load_script(container, script_of(container), vcpus)


def _load_script(container: Container, vcpus: int) -> Handler:
    from .script_model import load_script

    script = script_of(container)
    if script is None:
        raise LoadFailure(
            "no inference.py", "The script loader wants code/inference.py or SAGEMAKER_PROGRAM."
        )
    return load_script(container, script, vcpus)


def _load_command(container: Container, vcpus: int) -> Handler:
    from .command import start_command

    return start_command(container, vcpus)


_LOADERS = {
    "xgboost": _load_xgboost,
    "sklearn": _load_sklearn,
    "onnx": _load_onnx,
    "pytorch": _load_pytorch,
    "script": _load_script,
    "command": _load_command,
}
