"""One worker from start to end: spec, title, load, status, serve, exit.

Owns the order of things and the exit codes: 0 for a wanted end, 1 for a model that can't be loaded, whose
process died or that has used up its memory, 2 for a spec that can't be read.

Main function: ``main``.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from .calls import Handler, LoadFailure, say
from .loading import choose_loader, load
from .memory import watch_memory
from .process import (
    go_on_when_the_parent_ends,
    keep_freed_memory,
    set_title,
    watch_lifeline,
    write_status,
)
from .server import Server, stop_on_sigterm
from .spec import Spec, read_spec

FULL_STOP_S = 1.0  # for what is in hand when the memory is used up
KEPT_BYTES = 32 * 1024 * 1024  # a few of the largest bodies


def main(arguments: Sequence[str], program: Path) -> int:
    """Run a worker; returns its exit code.

    Args:
        arguments: The command line without the program.
        program: ``__main__.py`` itself, which a pipeline starts again for each container.
    """
    parser = argparse.ArgumentParser(prog="understudy worker")
    parser.add_argument("--spec", required=True, type=Path)
    parser.add_argument("--title", default="")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        spec = read_spec(options.spec)
    except (OSError, ValueError) as error:
        say(f"worker: {error}")
        return 2
    set_title(options.title or spec.title)
    keep_freed_memory(KEPT_BYTES)
    return _run(spec, program)


def _run(spec: Spec, program: Path) -> int:
    closing: list[Handler] = []
    if spec.shadow:
        go_on_when_the_parent_ends()
    if spec.lifeline_fd is not None:
        os.set_inheritable(spec.lifeline_fd, False)

        def close_all() -> None:
            for handler in closing:
                handler.close()
            if spec.shadow and os.getpgid(0) == os.getpid():
                # What user code has forked can be stopped, too; it is to see that we are gone.
                os.killpg(0, signal.SIGCONT)

        watch_lifeline(spec.lifeline_fd, close_all)
    write_status(spec.status_path, "loading")
    try:
        handler = _load(spec, program, closing)
    except LoadFailure as failure:
        say(f"load failed: {failure.reason}: {failure.detail}")
        write_status(spec.status_path, "failed", reason=failure.reason, detail=failure.detail)
        return 1
    listener = None if spec.listen_fd is None else socket.socket(fileno=spec.listen_fd)
    connection = None if spec.connection_fd is None else socket.socket(fileno=spec.connection_fd)
    server = Server(handler, listener=listener, connection=connection)
    stop_on_sigterm(server)
    warm_up = getattr(handler, "warm_up", None)
    if warm_up is not None:
        warm_up()
    deaths: list[tuple[str, str]] = []

    def end(reason: str, detail: str, within_s: float = math.inf) -> None:
        deaths.append((reason, detail))
        server.stop(within_s)

    # What comes while it ends fails, too: that is not waited for.
    watch_memory(lambda detail: end("out of memory", detail, FULL_STOP_S))
    watch = getattr(handler, "watch", None)
    if watch is not None:
        watch(lambda detail: end("the model's process died", detail))
    write_status(
        spec.status_path,
        "ready",
        batch=handler.batch,
        model={"kind": handler.kind, "loader": _loader_of(spec), "note": handler.note},
    )
    server.run()
    handler.close()
    if deaths:
        reason, detail = deaths[0]
        write_status(spec.status_path, "failed", reason=reason, detail=detail)
        say(f"{reason}: {detail}")
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    # Daemon threads inside model libraries may not survive an orderly interpreter shutdown; all is flushed.
    os._exit(0)


def _loader_of(spec: Spec) -> str:
    return "pipeline" if len(spec.containers) > 1 else choose_loader(spec.containers[0])


def _load(spec: Spec, program: Path, closing: list[Handler]) -> Handler:
    if len(spec.containers) > 1:
        from .pipeline import start_pipeline

        return start_pipeline(spec, program, closing)
    container = spec.containers[0]
    os.environ.update(container.environment)
    os.environ.setdefault("SM_MODEL_DIR", str(container.model_dir))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # read when a library loads
        os.environ.setdefault(name, str(spec.vcpus))
    place = container.code_dir if container.code_dir is not None else container.model_dir
    try:
        os.chdir(place)
    except OSError as error:
        raise LoadFailure(f"no directory {place.name}", str(error)) from error
    handler = load(container, spec.vcpus)
    closing.append(handler)
    return handler
