"""XGBoost artifacts: finding the file and reading it, whatever version wrote it.

Owns model.tar.gz layouts of XGBoost and old pickles. Refuses prediction.

Main function: ``load_booster``.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from .calls import LoadFailure, describe

_NAMES = ("xgboost-model", "xgboost.model", "model.xgb")
_PATTERNS = ("*.ubj", "*.bst", "*.json", "*.model", "*.xgb", "*.pkl", "*.pickle", "*.joblib")


def find_artifact(model_dir: Path) -> Path:
    """Find the model's file: ``xgboost-model`` first, then by ending; else the only file there is.

    Raises:
        LoadFailure: none, or several of the same ending with nothing to choose by.
    """
    for name in _NAMES:
        if (model_dir / name).is_file():
            return model_dir / name
    for pattern in _PATTERNS:
        found = sorted(path for path in model_dir.glob(pattern) if path.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise LoadFailure(
                "several model files", f"{names}: name the one to serve xgboost-model, or keep only one."
            )
    files = sorted(path for path in model_dir.iterdir() if path.is_file() and not path.name.startswith("."))
    if len(files) == 1:
        return files[0]
    raise LoadFailure(
        "no XGBoost model file",
        f"The artifact holds {', '.join(path.name for path in files) or 'no files'}; "
        f"expected xgboost-model or one of {', '.join(_PATTERNS)}.",
    )


def load_booster(path: Path, xgboost: Any, *, rescue: bool = True) -> tuple[Any, str]:
    """Read a booster (or an estimator of XGBoost's scikit-learn API) from a file.

    A pickle that this XGBoost refuses is taken apart: its ``handle`` holds the model in the binary format,
    which newer versions up to 3.0 still read.

    Args:
        rescue: Take refused pickles apart; off, the refusal stands, as on AWS.
    Returns:
        The object, and how it was read.
    Raises:
        LoadFailure: with what to do.
    """
    try:
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
    except OSError as error:
        raise LoadFailure(f"can't read {path.name}", describe(error)) from error
    if is_pickle:
        return _load_pickle(path, xgboost, rescue)
    booster = xgboost.Booster()
    try:
        booster.load_model(str(path))
    except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
        raise LoadFailure(
            f"XGBoost {xgboost.__version__} can't read {path.name}", _first_lines(error)
        ) from error
    return booster, f"{path.name}, XGBoost {xgboost.__version__}"


def _load_pickle(path: Path, xgboost: Any, rescue: bool) -> tuple[Any, str]:
    try:
        with path.open("rb") as file:
            return pickle.load(file), f"{path.name} (pickle), XGBoost {xgboost.__version__}"  # noqa: S301
    except xgboost.core.XGBoostError as error:
        refusal = _first_lines(error)
    except (ImportError, AttributeError) as error:
        raise LoadFailure(
            f"{path.name} needs a package that is not installed",
            f"{describe(error)}. Add it to the model's requirements.txt, or use an image that has it.",
        ) from error
    except Exception as error:  # unpickling runs whatever the pickle says
        raise LoadFailure(f"{path.name} is not a readable pickle", describe(error)) from error
    if rescue:
        with path.open("rb") as file:
            raw = _HandleReader(file).handle()
        if raw is not None:
            booster = xgboost.Booster()
            try:
                booster.load_model(bytearray(raw))
                return (
                    booster,
                    f"{path.name} (handle of another version's pickle), XGBoost {xgboost.__version__}",
                )
            except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
                refusal = f"{refusal}; its inner model: {_first_lines(error)}"
    raise LoadFailure(
        f"{path.name} was pickled by another XGBoost than this image's {xgboost.__version__}",
        f"{refusal}. Use the image of the version that pickled it (the AWS examples' churn models: "
        "sagemaker-xgboost:0.90-1-cpu-py3), or save the model there with save_model and serve that file.",
    )


class _Shell:
    """Stands in for whatever class a pickle names, and keeps its state."""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _HandleReader(pickle.Unpickler):
    """Reads a pickled Booster's state without running XGBoost's part of it."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "xgboost":
            return _Shell
        return super().find_class(module, name)

    def handle(self) -> bytes | None:
        """Return the model in the binary format, from a Booster or an estimator around one."""
        try:
            shell = self.load()
        except Exception:  # noqa: BLE001 - the first refusal is what will be told
            return None
        for _ in range(2):
            state = getattr(shell, "state", None)
            if not isinstance(state, dict):
                return None
            if isinstance(state.get("handle"), (bytes, bytearray)):
                return bytes(state["handle"])
            shell = state.get("_Booster")
        return None


def _first_lines(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:400] or describe(error)
