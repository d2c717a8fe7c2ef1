"""START HERE: builds every adapter of the controller, hands them out as ports, owns start and stop.

The controller serves every API but InvokeEndpoint, runs the control loops and owns the records.  It
can be killed at any moment: routers and workers go on, and the next one resumes from the store.

Processes: :mod:`understudy.supervisor` starts this module (``python -m understudy.app``) and the
routers (``python -m understudy.dataplane``); workers are started by the runtime built here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import setproctitle
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from understudy.aws.gateway import Gateway
from understudy.capture.collector import Collector
from understudy.console.face import ConsoleFace, is_signed
from understudy.console.files import ConsoleFiles
from understudy.console.health import HealthFace
from understudy.console.invoking import Invoker
from understudy.console.live import Live
from understudy.console.prometheus import UnderstudyCollector
from understudy.console.sessions import Sessions
from understudy.control.endpoints import EndpointLoop
from understudy.control.experiments import ExperimentLoop
from understudy.control.loop import Chore, Loop
from understudy.control.publisher import Publisher
from understudy.control.recording import Recorder
from understudy.core.endpoints import Endpoint
from understudy.core.names import Place
from understudy.core.ports import Query
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.runtimes.artifacts import Artifacts
from understudy.runtimes.containers import ContainerPreparation
from understudy.runtimes.environments import Environments
from understudy.runtimes.images import Images
from understudy.runtimes.local import LocalRuntime
from understudy.settings import Settings, SettingsError, process_environment
from understudy.stores.databases import CannotOpen
from understudy.stores.logs import FileLogs
from understudy.stores.migrations import NewerDatabase
from understudy.stores.objects import DiskObjects
from understudy.stores.objects_s3 import S3Objects
from understudy.stores.records import SqlRecords, open_records
from understudy.stores.series import SqliteSeries
from understudy.system import RealClock, RealEntropy
from understudy.worker.process import watch_lifeline

log = logging.getLogger(__name__)

INDEX_LOGS_EVERY_S = 0.5  # how exact the times of log lines are
INSTANCE_METRICS_EVERY_S = 5.0
ROLL_UP_EVERY_S = 60.0
COLLECT_EVERY_S = 2.0  # routers complete a segment of captured records as often
CONSOLE_THREADS = 8  # pages that read at a time
HEALTH_PATHS = frozenset({"/healthz", "/metrics", "/understudy/v1/status"})


@dataclass
class Stores:
    """Where things are kept."""

    records: SqlRecords
    series: SqliteSeries
    logs: FileLogs
    objects: DiskObjects | S3Objects

    def close(self) -> None:
        """Let go of files and connections."""
        self.records.close()
        self.series.close()
        if isinstance(self.objects, DiskObjects):
            self.objects.close()


def open_stores(settings: Settings, clock: RealClock, entropy: RealEntropy) -> Stores:
    """Open every store of a data directory."""
    data = Path(settings.data_dir)
    objects: DiskObjects | S3Objects
    if settings.objects:
        objects = S3Objects(
            endpoint_url=settings.objects,
            access_key_id=settings.objects_access_key_id,
            secret_access_key=settings.objects_secret_access_key,
            region=settings.region,
        )
    else:
        objects = DiskObjects(data / "objects", clock, entropy)
    try:
        records = open_records(settings.database or f"sqlite:///{data / 'records.db'}")
    except (ValueError, NewerDatabase, CannotOpen) as error:
        raise SettingsError(f"The records can't be opened: {error}") from error
    return Stores(
        records=records,
        series=SqliteSeries(data / "series.db"),
        logs=FileLogs(data / "logs", clock),
        objects=objects,
    )


def build_runtime(
    settings: Settings,
    stores: Stores,
    clock: RealClock,
    entropy: RealEntropy,
    place: Place,
    environ: Mapping[str, str],
    lifeline_fd: int,
) -> LocalRuntime:
    """Build the runtime: images, artifacts, environments, processes."""
    data = Path(settings.data_dir)
    registries = [Path(settings.images)] if settings.images else []
    roots = [Path(root).resolve() for root in settings.file_roots.split(":") if root]
    environments = Path(settings.environments_dir) if settings.environments_dir else data / "environments"
    preparation = ContainerPreparation(
        Images([*registries, data / "images.toml"]),
        Artifacts(data / "artifacts", stores.objects, allowed_roots=roots),
        Environments(environments, environ=environ),
    )
    return LocalRuntime(
        settings.run_dir,
        preparation=preparation,
        logs=stores.logs,
        clock=clock,
        entropy=entropy,
        place=place,
        lifeline_fd=lifeline_fd,
    )


class Controller:
    """Everything of the controller process, built and wired."""

    def __init__(
        self, settings: Settings, facts: Mapping[str, Any], environ: Mapping[str, str], lifeline_fd: int
    ) -> None:
        self.settings = settings
        clock = RealClock(settings.time_scale, facts["time_anchor_s"])
        entropy = RealEntropy()
        place = Place(settings.account_id, settings.region)
        self._stores = stores = open_stores(settings, clock, entropy)
        self._runtime = build_runtime(settings, stores, clock, entropy, place, environ, lifeline_fd)
        recorder = Recorder(stores.series, clock)
        self._publisher = Publisher(
            settings.run_dir,
            settings.router_count,
            on_metrics=recorder.on_metrics,
            on_change=lambda: self._loop.wake(),
            on_suspect=lambda instance_id, silent_s: hear_of_suspect(instance_id, silent_s),
        )
        endpoints = EndpointLoop(stores.records, self._runtime, self._publisher, clock, entropy, place)

        experiments = ExperimentLoop(stores.records, clock, place)

        def tick(reread: bool) -> bool:
            # Endpoints first: nothing that may be wrong with a test keeps them waiting.
            acted = endpoints.tick(reread=reread)
            if experiments.tick(reread=reread):
                self._loop.nudge()
            return acted

        def hear_of_suspect(instance_id: str, silent_s: float) -> None:
            endpoints.suspect(instance_id, silent_s)
            self._loop.wake()

        def observe_instances() -> None:
            recorder.on_instances(self._runtime.observe())
            recorder.follow({stored.value.name for stored in stores.records.find(Endpoint, Query())})

        self._loop = Loop(
            tick,
            [
                Chore(
                    "index logs",
                    INDEX_LOGS_EVERY_S,
                    lambda: stores.logs.index_once(int(clock.now_s() * 1000)),
                ),
                Chore("instance metrics", INSTANCE_METRICS_EVERY_S, observe_instances),
                Chore("roll up metrics", ROLL_UP_EVERY_S, lambda: stores.series.roll_up(clock.now_s())),
            ],
            time.monotonic,
        )
        self._collector = Collector(
            settings.spool_dir, stores.objects, stores.objects, clock, entropy, recorder.on_captured
        )
        # A thread of its own: megabytes of records on their way to a slow store hold up nothing else.
        self._collecting = Loop(
            lambda _: self._collector.collect_once(),
            [],
            time.monotonic,
            name="capture",
            idle_wait_s=COLLECT_EVERY_S,
        )
        services = Services(
            records=stores.records,
            buckets=stores.objects,
            objects=stores.objects,
            series=stores.series,
            logs=stores.logs,
            clock=clock,
            entropy=entropy,
            place=place,
            endpoint_url=facts["endpoint_url"],
            nudge=self._loop.nudge,
        )
        credentials = Credentials(settings.credentials_path)
        self._gateway = gateway = Gateway(
            services,
            OPERATIONS,
            credentials.keys,
            "none" if settings.auth == "none" else "sigv4",
            signing_clock=RealClock(),  # signatures are real time, whatever the scale
        )
        collector = UnderstudyCollector(recorder, stores.records, self._runtime)
        health = HealthFace(
            records=stores.records,
            runtime=self._runtime,
            collector=collector,
            routers=self._publisher.routers,
            credentials=credentials.keys,
            now_s=RealClock().now_s,
            region=settings.region,
            auth=settings.auth,
        )
        pages = Starlette(routes=health.routes())
        self._console = console = self._build_console(services, credentials, recorder, health)

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            face: ASGIApp = gateway
            if scope["type"] == "http":
                if scope["path"] in HEALTH_PATHS:
                    face = pages
                elif f"{scope['path']}/".startswith("/console/") and not is_signed(scope):
                    face = console
            await face(scope, receive, send)

        self._server = uvicorn.Server(
            uvicorn.Config(
                application,
                uds="controller.sock",  # relative: the working directory is DATA/run
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=5,
            )
        )

    def _build_console(
        self, services: Services, credentials: Credentials, recorder: Recorder, health: HealthFace
    ) -> ConsoleFace:
        settings, threads = self.settings, ThreadPoolExecutor(CONSOLE_THREADS, "console")
        return ConsoleFace(
            mode=settings.console,
            files=ConsoleFiles(),
            sessions=Sessions(
                settings.console_secret_path,
                None if settings.auth == "none" else credentials.keys,
                RealClock(),
                services.entropy,
            ),
            services=services,
            call=self._gateway.perform_json,
            describe=health.describe,
            live=Live(
                lambda: recorder.totals()[0],
                health.describe,
                services.clock,
                threads,
                stopping=lambda: self._server.should_exit,
            ),
            invoker=Invoker(services.endpoint_url, credentials.keys, settings.region),
            time_scale=settings.time_scale,
            threads=threads,
        )

    def run(self) -> None:
        """Serve until SIGTERM; workers run on."""
        Path("controller.sock").unlink(missing_ok=True)
        self._loop.start()
        self._collecting.start()
        try:
            self._server.run()
        finally:
            self._gateway.close()
            self._console.close()
            self._loop.stop()
            self._collecting.stop()
            self._collector.collect_once()  # what the routers completed when they ended
            self._publisher.close()
            self._runtime.close()
            self._stores.close()


class Credentials:
    """The access keys of ``credentials.json``, read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._modified_ns = 0
        self._keys: dict[str, str] = {}

    def keys(self) -> Mapping[str, str]:
        """Return secrets by access key id."""
        modified_ns = self._path.stat().st_mtime_ns
        if modified_ns != self._modified_ns:
            found = json.loads(self._path.read_text())
            self._keys = {found["access_key_id"]: found["secret_access_key"]}
            self._modified_ns = modified_ns
        return self._keys


def main(argv: list[str]) -> None:
    """Run the controller; its working directory is ``DATA/run``."""
    parser = argparse.ArgumentParser(prog="python -m understudy.app")
    parser.add_argument("--lifeline-fd", type=int, required=True)
    arguments = parser.parse_args(argv)
    setproctitle.setproctitle("understudy controller")
    watch_lifeline(arguments.lifeline_fd)
    facts = json.loads(Path("server.json").read_text())
    settings = msgspec.convert(facts["settings"], Settings)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if settings.log_level != "debug":
        for name in ("alembic", "uvicorn"):  # what they tell at "info" is no news to an operator
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        controller = Controller(settings, facts, process_environment(), arguments.lifeline_fd)
    except SettingsError as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"{error.filename or settings.data_dir}: {error.strerror or error}.")
    controller.run()


def refuse(why: str) -> NoReturn:
    """End with one line where these settings can't work; the supervisor knows the code."""
    sys.stderr.write(f"Error: {why}\n")
    sys.exit(os.EX_CONFIG)


if __name__ == "__main__":
    main(sys.argv[1:])
