"""Image names as real clients send them find the right entry; operators' files win; mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.runtimes.failures import PreparationFailed
from understudy.runtimes.images import OWN_REGISTRY, Images, read_registry


@pytest.mark.parametrize(
    ("image", "name", "loader", "first"),
    [
        ("246618743249{w}sagemaker-xgboost:1.7-1", "xgboost:1.7-1", "xgboost", "1.7.4"),
        ("683313688378{e}sagemaker-xgboost:0.90-1-cpu-py3", "xgboost:0.90-1", "xgboost", "0.90"),
        ("683313688378{e}sagemaker-xgboost:0.90-2-cpu-py3", "xgboost:0.90-1", "xgboost", "0.90"),
        ("257758044811{e2}sagemaker-xgboost:1.2-1", "xgboost:1.2-1", "xgboost", "1.2.0"),
        ("433757028032{w}xgboost:1", "xgboost:1", "xgboost", "0.72.1"),
        ("246618743249{w}sagemaker-xgboost:3.0-5", "xgboost:3.0-5", "xgboost", "3.0.5"),
        ("xgboost:1.7-1", "xgboost:1.7-1", "xgboost", "1.7.4"),
        ("xgboost", "xgboost:3.2", "xgboost", "3.2.*"),
        ("246618743249{w}sagemaker-scikit-learn:1.2-1-cpu-py3", "sklearn:1.2-1", "sklearn", "1.2.1"),
        ("sklearn:1.2-1", "sklearn:1.2-1", "sklearn", "1.2.1"),
        ("sklearn", "sklearn", "sklearn", ""),
        ("763104351884{e}pytorch-inference:2.1.0-cpu-py310", "pytorch:2", "pytorch", ""),
        ("onnx:1", "onnx:1", "onnx", ""),
        ("python:3.11", "python:3.11", "script", None),
        ("registry.example/sagemaker-xgboost:1.7-1@sha256:" + "0" * 64, "xgboost:1.7-1", "xgboost", "1.7.4"),
    ],
)  # fmt: skip
def test_known_images(image: str, name: str, loader: str, first: str | None) -> None:
    for mark, region in {"{w}": "us-west-2", "{e}": "us-east-1", "{e2}": "us-east-2"}.items():
        image = image.replace(mark, f".dkr.ecr.{region}.amazonaws.com/")
    found = Images().find(image)
    assert (found.name, found.loader) == (name, loader)
    if first is None:
        assert found.packages == ((),)
    else:
        assert found.packages[0][0].endswith(first)


def test_every_entry_is_found_by_its_own_name() -> None:
    images = Images()
    entries = read_registry(OWN_REGISTRY)
    assert len({entry.name for entry in entries}) == len(entries) > 15
    for entry in entries:
        assert images.find(entry.name) == entry


def test_unknown_images_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed) as caught:
        Images([tmp_path / "images.toml"]).find("123.dkr.ecr.eu-west-1.amazonaws.com/mine:7")
    assert "'123.dkr.ecr.eu-west-1.amazonaws.com/mine:7'" in caught.value.reason
    assert "xgboost:1.7-1, " in caught.value.reason
    assert "images.toml in the data directory" in caught.value.reason
    assert len(caught.value.reason) < 900


def test_an_operators_file_adds_and_overrides_at_once(tmp_path: Path) -> None:
    path = tmp_path / "images.toml"
    images = Images([path])
    assert images.find("xgboost:1.7-1").asked == "1.7.4"
    path.write_text(
        '[[image]]\nname = "mine:7"\nmatch = ["*/mine:*"]\nloader = "command"\n'
        'command = ["python", "serve.py"]\n'
        '[[image]]\nname = "xgboost:1.7-1"\nloader = "xgboost"\npackages = [["xgboost==1.7.1"]]\n'
    )
    assert images.find("xgboost:1.7-1").packages == (("xgboost==1.7.1",),)
    found = images.find("123.dkr.ecr.eu-west-1.amazonaws.com/mine:8")
    assert (found.loader, found.command) == ("command", ("python", "serve.py"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = [", "images.toml: "),
        ("x = 1", "nothing but [[image]]"),
        ('[[image]]\nname = "a"\nloader = "docker"', "a loader, one of auto"),
        ('[[image]]\nloader = "auto"', "needs a name"),
        ('[[image]]\nname = "a"\nlaoder = "auto"', "[[image]] number 1: unknown field 'laoder'"),
        ('[[image]]\nname = "a"\npackages = ["numpy"]', "packages must be a list of lists"),
        ('[[image]]\nname = "a"\npackages = []', "packages must be a list of lists"),
        ('[[image]]\nname = "a"\nmatch = "a*"', "match must be a list"),
        ('[[image]]\nname = "a"\npython = 3.11', "python must be a text"),
        ('[[image]]\nname = "a"\nloader = "command"', "command goes with"),
        ('[[image]]\nname = "a"\ncommand = ["x"]', "command goes with"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "images.toml"
    path.write_text(text)
    with pytest.raises(PreparationFailed) as caught:
        Images([path]).find("python")
    assert told in caught.value.reason
