"""Every code block of the documentation: those marked ``<!-- run -->`` run in order, the others compile.

Marks, on the line before the fence:
    ``<!-- run -->``          against a live server, with the environment of ``understudy env``; the Python
                              blocks of a page share one interpreter, all of its blocks one directory
    ``<!-- run: sdk2 -->``    under ``understudy exec`` with the SageMaker SDK v2, where .venv-sdk2 is
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RUNNER = Path(__file__).with_name("block_runner.py")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PATIENCE_S = 120.0
_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>run|run: sdk2) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    language: str
    code: str
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["language"], found["code"], found["mark"])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUNNING = [page for page in PAGES if any(block.mark for block in blocks_of(page))]


def test_there_is_something_to_run() -> None:
    names = {str(page.relative_to(ROOT)) for page in RUNNING}
    assert {"README.md", "docs/guides/ab-testing.md", "docs/guides/models.md"} <= names
    marks = sum(page.read_text(encoding="utf-8").count("<!-- run") for page in PAGES)
    assert sum(block.mark is not None for block in BLOCKS) == marks  # no mark without its block


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.code, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "sh"], ids=str)
def test_sh_parses(block: Block) -> None:
    done = subprocess.run(["sh", "-n"], input=block.code, text=True, capture_output=True)
    assert done.returncode == 0, f"{block}: {done.stderr}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_toml_parses(block: Block) -> None:
    import tomllib

    assert tomllib.loads(block.code)


@pytest.mark.journey
@pytest.mark.timeout(400)
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_marked_blocks_run(page: Path, server: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    bin_dir = Path(sys.executable).parent
    environment = {**server.environment, "PATH": f"{bin_dir}:{server.environment['PATH']}"}
    sdk2 = ROOT / ".venv-sdk2" / "bin" / "python"
    left_out = []
    with _Interpreter(environment, tmp_path) as interpreter:
        for block in blocks_of(page):
            if block.mark is None:
                continue
            if block.mark == "run: sdk2" and not sdk2.exists():
                left_out.append(str(block))
                continue
            if block.mark == "run: sdk2":
                program = tmp_path / "sdk2_block.py"
                program.write_text(block.code)
                code, output = _run(
                    ["understudy", "exec", "--", str(sdk2), str(program)], environment, tmp_path
                )
            elif block.language == "python":
                code, output = interpreter.run(block)
            else:
                command = ["sh", "-e", "-c", block.code]
                code, output = _run(command, environment, tmp_path)
            assert code == 0, f"{block}:\n{output}"
    if left_out:
        pytest.skip(f"all ran but {', '.join(left_out)}: needs .venv-sdk2, run `make sdks`")


def _run(command: list[str], environment: dict[str, str], place: Path) -> tuple[int, str]:
    done = subprocess.run(
        command,
        env=environment,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
    )
    return done.returncode, done.stdout


class _Interpreter:
    """One Python for the blocks of a page."""

    def __init__(self, environment: dict[str, str], place: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(RUNNER)],
            env=environment,
            cwd=place,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> _Interpreter:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def run(self, block: Block) -> tuple[int, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"name": str(block), "code": block.code}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"{block}: the interpreter ended"
        outcome = json.loads(answer)
        return outcome["code"], outcome["output"]
