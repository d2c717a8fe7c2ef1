"""Burns processors with threads and processes until killed; ``python cpu_burner.py PROCESSES [TICKS_FILE]``.

With a file it appends the monotonic time now and then: a sign of life.
"""

import subprocess
import sys
import time
from pathlib import Path

count = int(sys.argv[1])
for _ in range(count - 1):
    subprocess.Popen([sys.executable, __file__, "1"])
life = Path(sys.argv[2]) if len(sys.argv) > 2 else None
due_s = 0.0
while True:
    sum(range(1000))
    if life is not None and time.monotonic() >= due_s:
        due_s = time.monotonic() + 0.05
        with life.open("a") as file:
            file.write(f"{due_s}\n")
