"""An environment per peer, built by uv from its pinned ``requirements.txt`` and kept in ``.cache/bench/env``.

Main function: :func:`environment_of`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import uv

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
CACHE = ROOT / ".cache" / "bench"
INSTALL_PATIENCE_S = 900
OWN_CODE = {"PYTHONPATH": str(ROOT / "src")}  # what is measured is the tree that this file is in


class NotInstalled(Exception):
    """A peer can't be had here; the text says why and what to do."""


def environment_of(peer: str) -> Path:
    """Return the interpreter of a peer's environment, building it the first time.

    Args:
        peer: A folder of ``bench/peers`` with a ``requirements.txt``.
    Raises:
        NotInstalled: uv can't install it.
    """
    wanted = (PEERS / peer / "requirements.txt").read_bytes()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    key = hashlib.sha256(wanted + version.encode()).hexdigest()[:12]
    folder = CACHE / "env" / f"{peer}-{key}"
    ready = folder / "bench-installed"
    if ready.exists():
        return folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    tool = os.fsdecode(uv.find_uv_bin())
    python = folder / "bin" / "python"
    for arguments in (
        ["venv", "--quiet", "--python", sys.executable, str(folder)],
        ["pip", "install", "--quiet", "--only-binary", ":all:", "--python", str(python),
         "-r", str(PEERS / peer / "requirements.txt")],
    ):  # fmt: skip
        try:
            done = subprocess.run(
                [tool, *arguments], capture_output=True, text=True, check=False, timeout=INSTALL_PATIENCE_S
            )
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"uv took longer than {INSTALL_PATIENCE_S} s") from None
        if done.returncode != 0:
            raise NotInstalled("uv: " + " ".join(done.stderr.split())[-300:])
    ready.touch()
    return python


def versions_of(peer: str) -> dict[str, str]:
    """Return what a peer's requirements pin, by name."""
    lines = (PEERS / peer / "requirements.txt").read_text().splitlines()
    pairs = (line.split("==", 1) for line in lines if "==" in line)
    return {name.strip(): version.split(";")[0].strip() for name, version in pairs}
