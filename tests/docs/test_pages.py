"""Pages against the code they tell about: generated ones are fresh, tables complete, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from understudy.cli.serve import serve
from understudy.console.prometheus import UnderstudyCollector
from understudy.operations.registry import OPERATIONS
from understudy.runtimes.images import read_registry
from understudy.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "understudy"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
ROUTED = 2  # InvokeEndpoint and its streaming kin are no functions of the registry


def text_of(*names: str) -> str:
    return ROOT.joinpath(*names).read_text(encoding="utf-8")


@pytest.mark.parametrize("script", ["make_operations.py", "make_images.py"])
def test_generated_pages_are_fresh(script: str) -> None:
    done = subprocess.run([sys.executable, str(DOCS / script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_the_number_of_operations(page: str) -> None:
    told = re.findall(r"\[(\d+) operations\]", text_of(page))
    assert told == [str(len(OPERATIONS) + ROUTED)]


def test_every_setting_is_told_with_its_default_and_option() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| `(.*?)` \| (?:`--([\w-]+)`)? ?\|",
        text_of("docs", "guides", "operating.md"),
        re.MULTILINE,
    )
    told = {name: (default, option) for name, default, option in rows}
    options = {parameter.name for parameter in serve.params}
    for field in fields(Settings):
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        option = field.name.replace("_", "-") if field.name in options else ""
        assert told.pop(field.name) == (default, option), field.name
    assert told == {}


def test_every_deviation_is_told() -> None:
    marked = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if "Differs from AWS:" in path.read_text(encoding="utf-8")
    }
    assert set(re.findall(r"`([\w/]+\.py)`", text_of("docs", "differences.md"))) == marked


def test_every_prometheus_metric_is_told() -> None:
    source = Path(sys.modules[UnderstudyCollector.__module__].__file__ or "").read_text(encoding="utf-8")
    known = set(re.findall(r'"(understudy_[a-z0-9_]+)"', source)) | {"understudy"}
    told = re.findall(r"^\| `(understudy_\w+)` \|", text_of("docs", "guides", "operating.md"), re.MULTILINE)
    # The families' names: the suffixes are those of counters and of constant labels.
    named = {name.removesuffix("_info") for name in known}
    assert {name.removesuffix("_total").removesuffix("_info") for name in told} == named


def test_every_variable_of_a_container_is_told() -> None:
    told = text_of("docs", "guides", "models.md")
    used = set()
    for room in ("worker", "runtimes"):
        for path in (SOURCE / room).glob("*.py"):
            used |= set(re.findall(r'"((?:UNDERSTUDY|SAGEMAKER)_[A-Z_]+)"', path.read_text(encoding="utf-8")))
    used -= {"UNDERSTUDY_WORKER", "SAGEMAKER_REGION"}  # set for the process, not read from the container
    assert {name for name in used if f"`{name}" not in told} == set()


def _toml_block(page: str) -> str:
    found = re.findall(r"^```toml\n(.*?)^```$", text_of("docs", "guides", page), re.MULTILINE | re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_the_registry_of_images_in_the_guide_is_read(tmp_path: Path) -> None:
    path = tmp_path / "images.toml"
    path.write_text(_toml_block("models.md"))
    assert [image.name for image in read_registry(path)] == ["churn:7", "my-server"]


def test_the_settings_in_the_guide_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "understudy.toml"
    path.write_text(_toml_block("operating.md"))
    settings = load_settings(environment={}, config_file=str(path))
    assert (settings.port, settings.data_dir, settings.routers) == (9000, "/srv/models", 4)


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = page if not name else (page.parent / name).resolve()
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_nothing_of_one_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for word in ("/work/", "/root/", "/home/", "pypi.org", "/tmp/"):
        assert word not in text, f"{page.name}: {word}"
