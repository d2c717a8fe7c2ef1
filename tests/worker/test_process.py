"""The worker as a process: what it gives back to the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Blocks too small for pages of their own, freed below one that stays: nothing but trimming gives them back.
PEAK = """
import ctypes
from pathlib import Path
from understudy.worker.process import give_back_what_is_free

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [ctypes.c_void_p(libc.malloc(100_000)) for _ in range(500)]
for block in blocks:
    ctypes.memset(block, 1, 100_000)
kept = ctypes.c_void_p(libc.malloc(100_000))
for block in blocks:
    libc.free(block)
before = resident()
give_back_what_is_free()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's allocator has pages to give back")
def test_what_a_short_peak_touched_goes_back_to_the_system() -> None:
    ended = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert int(ended.stdout) > 40_000_000
