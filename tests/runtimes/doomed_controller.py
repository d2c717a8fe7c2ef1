"""Starts instances with a LocalRuntime and waits to be killed: a controller, for ``test_kills.py``."""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from runtime_bench import STANDIN, make_spec

from understudy.core.models import Container
from understudy.core.names import Place
from understudy.runtimes.artifacts import Artifacts
from understudy.runtimes.containers import ContainerPreparation
from understudy.runtimes.environments import Environments
from understudy.runtimes.images import Images
from understudy.runtimes.local import LocalRuntime
from understudy.stores.logs import FileLogs
from understudy.stores.memory_objects import MemoryObjects
from understudy.system import RealClock, RealEntropy

directory, lifeline_fd = Path(sys.argv[1]), int(sys.argv[2])
clock = RealClock()
runtime = LocalRuntime(
    directory / "run",
    preparation=ContainerPreparation(
        Images(),
        Artifacts(directory / "artifacts", MemoryObjects(clock)),
        Environments(directory / "environments", environ=dict(os.environ)),
    ),
    logs=FileLogs(directory / "logs", clock),
    clock=clock,
    entropy=RealEntropy(),
    place=Place(),
    lifeline_fd=lifeline_fd,
    worker_main=STANDIN,
)
print("begin", flush=True)
for number in range(8):
    environment = {"STANDIN_CHILD": "1"}
    runtime.start(make_spec(f"churn/Blue/f1/{number}-1", Container("python", environment=environment)))
    if number % 3 == 2:
        time.sleep(0.05)
        runtime.stop(f"churn/Blue/f1/{number - 1}-1", 5.0)
time.sleep(1000)
