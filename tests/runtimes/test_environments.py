"""Environments with the real uv: found, built, shared, and failing in words.

Packages are tiny wheels made here and found by UV_FIND_LINKS, so that most tests need no index.
"""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from understudy.runtimes.environments import Environment, Environments
from understudy.runtimes.failures import Cancelled, PreparationFailed
from understudy.runtimes.images import Image

OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def wheel(directory: Path, name: str, version: str, python: str = "py3", requires: str = "") -> None:
    """Write a wheel of one module that knows its version."""
    info = f"{name}-{version}.dist-info"
    needs = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {python}-none-any\n",
    }
    record = ""
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(directory / f"{name}-{version}-{python}-none-any.whl", "w") as archive:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(path, text)


def image(*candidates: list[str], asked: str | None = None, python: str | None = None) -> Image:
    packages = tuple(tuple(candidate) for candidate in candidates)
    return Image("toy:1", ("toy:1",), "script", packages, asked=asked, python=python)


class Nursery:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.wheels = directory / "wheels"
        self.wheels.mkdir()
        self.environ = {
            **os.environ,
            "UV_FIND_LINKS": str(self.wheels),
            "UV_NO_INDEX": "1",
            "AWS_SECRET_ACCESS_KEY": "wJalr",
        }
        self.told: list[str] = []
        self.environments = self.new()

    def new(self) -> Environments:
        return Environments(self.directory / "environments", environ=self.environ)

    def resolve(self, wanted: Image, requirements: bytes | None = None) -> Environment:
        return self.environments.resolve(wanted, requirements, self.told.append)

    def built(self) -> list[str]:
        top = self.directory / "environments"
        return [p.name for p in top.iterdir() if not p.name.startswith(".") and p.name != "uv-cache"]


@pytest.fixture
def nursery(tmp_path: Path) -> Nursery:
    made = Nursery(tmp_path)
    wheel(made.wheels, "toymodel", "1.2.1")
    wheel(made.wheels, "toymodel", "2.0.0")
    return made


def run(environment: Environment, code: str) -> str:
    done = subprocess.run([environment.python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_an_environment_is_built_and_works(nursery: Nursery) -> None:
    got = nursery.resolve(image(["toymodel==1.2.1"]))
    assert run(got, "import toymodel; print(toymodel.VERSION)") == "1.2.1"
    assert got.packages == ("toymodel==1.2.1",)
    assert got.resolved == f"toy:1 (python {OWN}, toymodel 1.2.1)"
    assert got.python_version == OWN
    assert "building environment toymodel 1.2.1" in nursery.told
    assert len(nursery.built()) == 1
    assert run(got, "import sys; print('botocore' in sys.modules, sys.prefix)").endswith(nursery.built()[0])


def test_it_is_built_once(nursery: Nursery) -> None:
    got = nursery.resolve(image(["toymodel==1.2.1"]))
    nursery.told.clear()
    assert nursery.resolve(image(["toymodel==1.2.1"])) == got
    nursery.environments = nursery.new()
    assert nursery.resolve(image(["toymodel==1.2.1"])) == got
    assert nursery.told == []


def test_what_asks_at_the_same_time_shares_a_build(nursery: Nursery) -> None:
    got: list[Environment] = []
    threads = [
        threading.Thread(target=lambda: got.append(nursery.resolve(image(["toymodel"])))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 6 and len(set(got)) == 1
    assert nursery.told.count("building environment toy:1") == 1


def test_two_processes_do_not_build_the_same_one_twice(nursery: Nursery) -> None:
    other = nursery.new()
    got: list[Environment] = []
    threads = [
        threading.Thread(
            target=lambda e=e: got.append(e.resolve(image(["toymodel"]), None, nursery.told.append))
        )
        for e in (nursery.environments, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got[0] == got[1]
    assert nursery.told.count("building environment toy:1") == 1


def test_the_nearest_version_that_installs_is_used_and_told(nursery: Nursery) -> None:
    got = nursery.resolve(image(["toymodel==1.2.0"], ["toymodel==1.2.1"], asked="1.2.0"))
    assert got.resolved == f"toy:1 (python {OWN}, asked toymodel 1.2.0, nearest that installs: 1.2.1)"


def test_requirements_are_installed_on_top(nursery: Nursery) -> None:
    wheel(nursery.wheels, "extra", "3.0")
    got = nursery.resolve(image(["toymodel==1.2.1"]), b"extra\ntoymodel>=2\n")
    assert run(got, "import extra, toymodel; print(extra.VERSION, toymodel.VERSION)") == "3.0 2.0.0"
    assert nursery.resolve(image(["toymodel==1.2.1"])).python != got.python
    assert nursery.resolve(image(["toymodel==1.2.1"]), b" \n") == nursery.resolve(image(["toymodel==1.2.1"]))


def test_a_failure_is_told_and_tried_again(nursery: Nursery) -> None:
    with pytest.raises(PreparationFailed) as caught:
        nursery.resolve(image(["toymodel==9"]))
    assert "Could not install the packages of image 'toy:1'" in caught.value.reason
    assert "toymodel==9" in caught.value.reason
    assert "toymodel==9" in caught.value.log
    assert nursery.built() == []
    wheel(nursery.wheels, "toymodel", "9")
    assert nursery.resolve(image(["toymodel==9"])).packages == ("toymodel==9",)


def test_requirements_that_fail_are_named(nursery: Nursery) -> None:
    with pytest.raises(PreparationFailed, match=r"code/requirements\.txt.*nosuchthing"):
        nursery.resolve(image(["toymodel==1.2.1"]), b"nosuchthing==1\n")
    with pytest.raises(PreparationFailed, match=r"code/requirements\.txt"):
        nursery.resolve(image(["toymodel==1.2.1"]), b"this is no requirement !\n")
    assert nursery.built() == []


def test_a_network_that_fails_is_no_reason_for_another_version(nursery: Nursery) -> None:
    del nursery.environ["UV_NO_INDEX"]
    nursery.environ.update(UV_DEFAULT_INDEX="http://127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    nursery.environ.pop("UV_FIND_LINKS")
    nursery.environments = nursery.new()
    with pytest.raises(PreparationFailed):
        nursery.resolve(image(["toymodel==1.2.0"], ["toymodel==1.2.1"], asked="1.2.0"))
    assert "building environment toymodel 1.2.0" in nursery.told
    assert "building environment toymodel 1.2.1" not in nursery.told


def test_what_is_beside_understudy_is_used_at_once(nursery: Nursery) -> None:
    got = nursery.resolve(image(["psutil>=5"]))
    assert got.python == sys.executable
    assert got.resolved.startswith(f"toy:1 (python {OWN}, psutil ")
    assert nursery.built() == []
    assert nursery.told == []


def test_what_is_beside_understudy_in_another_version_is_not(nursery: Nursery) -> None:
    wheel(nursery.wheels, "psutil", "0.1")
    assert run(nursery.resolve(image(["psutil==0.1"])), "import psutil; print(psutil.VERSION)") == "0.1"


def test_a_neighbour_version_beside_understudy_does_not_win_over_the_one_asked_for(nursery: Nursery) -> None:
    wheel(nursery.wheels, "psutil", "0.1")
    got = nursery.resolve(image(["psutil==0.1"], ["psutil>=5"], asked="0.1"))
    assert got.packages == ("psutil==0.1",)


def test_an_interpreter_that_is_not_here_is_told(nursery: Nursery) -> None:
    with pytest.raises(PreparationFailed, match=r"3\.7"):
        nursery.resolve(image([], python="3.7.0"))


def test_secrets_do_not_reach_the_builder(nursery: Nursery) -> None:
    source = nursery.directory / "spy"
    source.mkdir()
    (source / "setup.py").write_text(
        "import os, pathlib\nfrom setuptools import setup\n"
        f"pathlib.Path({str(nursery.directory / 'seen')!r}).write_text(' '.join(os.environ))\n"
        "setup(name='spy', version='1')\n"
    )
    nursery.environ.pop("UV_NO_INDEX")
    nursery.environments = nursery.new()
    try:
        nursery.resolve(image([]), f"spy @ file://{source}\n".encode())
    except PreparationFailed as failure:
        pytest.skip(f"setuptools could not be fetched to build with: {failure.reason[-200:]}")
    assert "AWS_SECRET_ACCESS_KEY" not in (nursery.directory / "seen").read_text()


def test_credentials_of_an_index_and_own_paths_are_not_told(nursery: Nursery) -> None:
    del nursery.environ["UV_NO_INDEX"]
    nursery.environ.update(UV_DEFAULT_INDEX="http://me:hunter2@127.0.0.1:9/simple", UV_HTTP_RETRIES="0")
    nursery.environments = nursery.new()
    with pytest.raises(PreparationFailed) as caught:
        nursery.resolve(image([]), b"nosuchthing @ http://you:hunter3@127.0.0.1:9/nosuchthing-1.tar.gz\n")
    told = caught.value.reason + caught.value.log + "".join(nursery.told)
    assert "127.0.0.1:9" in told
    assert "hunter" not in told
    assert str(nursery.directory / "environments") not in told


def test_close_ends_a_build(nursery: Nursery) -> None:
    nursery.environments.close()
    with pytest.raises(Cancelled):
        nursery.resolve(image(["toymodel==1.2.1"]))
    assert nursery.built() == []


def test_what_a_killed_builder_left_is_swept(nursery: Nursery) -> None:
    (nursery.directory / "environments" / "building-x").mkdir()
    nursery.environments = nursery.new()
    assert nursery.built() == []


def test_an_environment_whose_interpreter_went_away_is_built_again(nursery: Nursery) -> None:
    got = nursery.resolve(image(["toymodel==1.2.1"]))
    Path(got.python).unlink()
    again = nursery.resolve(image(["toymodel==1.2.1"]))
    assert run(again, "import toymodel; print(toymodel.VERSION)") == "1.2.1"
