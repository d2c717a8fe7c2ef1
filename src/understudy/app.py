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
from understudy.aws.own_calls import OwnCalls
from understudy.capture.assignments import FOLDER, AssignmentCollector
from understudy.capture.collector import Collector
from understudy.capture.judging import Judge
from understudy.capture.labelled_arms import LabelledArms
from understudy.capture.shadow_pairs import ShadowStores
from understudy.console.face import ConsoleFace, is_signed
from understudy.console.files import ConsoleFiles
from understudy.console.health import HealthFace
from understudy.console.invoking import Invoker
from understudy.console.live import Live
from understudy.console.prometheus import UnderstudyCollector
from understudy.console.sessions import Sessions
from understudy.control.alarm_actions import ActionDelivery
from understudy.control.alarms import AlarmLoop
from understudy.control.autopilot import AutopilotLoop
from understudy.control.endpoints import EndpointLoop
from understudy.control.evidence import StageBook
from understudy.control.experiments import ExperimentLoop
from understudy.control.failpoints import VARIABLE as FAILPOINT_VARIABLE
from understudy.control.failpoints import UnknownFailpoint, arm
from understudy.control.ground_truth import GroundTruthLoop
from understudy.control.label_evidence import LabelEvidence
from understudy.control.leftovers import Leftovers
from understudy.control.loop import Chore, Loop
from understudy.control.publisher import Publisher
from understudy.control.recording import Recorder
from understudy.control.shadow_verdicts import ShadowVerdicts
from understudy.control.steady import SteadyClock
from understudy.control.verdicts import VerdictLoop
from understudy.core.alarm_transitions import ActionRules
from understudy.core.endpoints import Endpoint
from understudy.core.names import Place
from understudy.core.ports import Query
from understudy.core.webhooks import parse_webhooks
from understudy.dataplane.accounting import ASSIGNMENT, CAPTURE
from understudy.operations.registry import OPERATIONS
from understudy.operations.services import Services
from understudy.operations.understudy.registry import OWN_CALLS
from understudy.runtimes.artifacts import Artifacts
from understudy.runtimes.containers import ContainerPreparation
from understudy.runtimes.cpu_groups import CpuGroups
from understudy.runtimes.environments import Environments
from understudy.runtimes.images import Images
from understudy.runtimes.local import LocalRuntime
from understudy.settings import Settings, SettingsError, process_environment
from understudy.stores.assignments import SqliteAssignments
from understudy.stores.databases import CannotOpen
from understudy.stores.evidence import SqliteEvidence
from understudy.stores.logs import FileLogs
from understudy.stores.migrations import NewerDatabase
from understudy.stores.objects import DiskObjects
from understudy.stores.objects_s3 import S3Objects
from understudy.stores.outcomes import SqliteOutcomes
from understudy.stores.records import SqlRecords, open_records
from understudy.stores.series import SqliteSeries
from understudy.system import RealClock, RealEntropy, boot_id
from understudy.worker.process import give_back_what_is_free, set_aside_what_lives_long, watch_lifeline

log = logging.getLogger(__name__)

INDEX_LOGS_EVERY_S = 0.5  # how exact the times of log lines are
INSTANCE_METRICS_EVERY_S = 5.0
ROLL_UP_EVERY_S = 60.0
# What routers counted while no controller listened is recorded and judged by then.
ALARMS_SETTLE_S = 1.0
ALARMS_EVERY_S = 0.1  # how soon after it is due an alarm is looked at
DELIVER_EVERY_S = 0.5
LEFTOVERS_EVERY_S = 1.0
COLLECT_EVERY_S = 2.0  # routers complete a segment of captured records as often
CONSOLE_THREADS = 8  # pages that read at a time
LOG_EVERY_S = 0.5
READ_GROUND_TRUTH_EVERY_S = 5.0
JUDGE_EVERY_S = 0.2  # counts come once a second: a verdict follows its event within about one
MEASURE_LABELS_EVERY_S = 0.5
HEALTH_PATHS = frozenset({"/healthz", "/metrics", "/understudy/v1/status"})


@dataclass
class Stores:
    """Where things are kept."""

    records: SqlRecords
    series: SqliteSeries
    logs: FileLogs
    objects: DiskObjects | S3Objects
    evidence: SqliteEvidence
    assignments: SqliteAssignments
    outcomes: SqliteOutcomes

    def close(self) -> None:
        """Let go of files and connections."""
        self.records.close()
        self.series.close()
        self.evidence.close()
        self.assignments.close()
        self.outcomes.close()
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
        evidence=SqliteEvidence(data / "evidence.db"),
        assignments=SqliteAssignments(data / "assignments.db"),
        outcomes=SqliteOutcomes(data / "outcomes.db"),
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
        shadow_cpu_percent=settings.shadow_cpu_percent,
        cpu_groups=CpuGroups(),
    )


def build_judging(
    stores: Stores, clock: RealClock, place: Place
) -> tuple[VerdictLoop, LabelEvidence, ShadowVerdicts]:
    """Build the loop that judges, what measures model quality for it, and what judges shadows."""
    arms = LabelledArms(stores.records, stores.objects, stores.outcomes, stores.assignments, stores.evidence)
    labels = LabelEvidence(arms, clock)
    judge = Judge(stores.evidence, stores.evidence, stores.assignments, stores.outcomes, stores.series)
    verdicts = VerdictLoop(stores.records, stores.evidence, judge, stores.series, clock, place, labels.newest)
    pairs = ShadowStores(stores.objects, stores.outcomes, stores.evidence, stores.evidence, stores.series)
    return verdicts, labels, ShadowVerdicts(stores.records, pairs, clock, place)


class Controller:
    """Everything of the controller process, built and wired."""

    def __init__(
        self, settings: Settings, facts: Mapping[str, Any], environ: Mapping[str, str], lifeline_fd: int
    ) -> None:
        self.settings = settings
        self._started_s = time.monotonic()
        clock = RealClock(settings.time_scale, facts["time_anchor_s"])
        entropy = RealEntropy()
        place = Place(settings.account_id, settings.region)
        self._stores = stores = open_stores(settings, clock, entropy)
        self._runtime = build_runtime(settings, stores, clock, entropy, place, environ, lifeline_fd)
        recorder = Recorder(stores.series, clock, stores.evidence)
        self._publisher = Publisher(
            settings.run_dir,
            settings.router_count,
            on_metrics=recorder.on_metrics,
            on_change=lambda: self._loop.wake(),
            on_suspect=lambda instance_id, silent_s: hear_of_suspect(instance_id, silent_s),
            stamp=StageBook(stores.evidence, clock).stamp,
        )
        try:
            failpoints = arm(environ.get(FAILPOINT_VARIABLE), settings.run_dir / "failpoints.json")
        except UnknownFailpoint as error:
            raise SettingsError(str(error)) from error
        steady = SteadyClock(clock, settings.run_dir / "steady.json", boot_id(), settings.time_scale)
        endpoints = EndpointLoop(
            stores.records,
            self._runtime,
            self._publisher,
            steady,
            entropy,
            place,
            failpoints=failpoints,
            on_calm=steady.follow_wall,
            alarms_settled=lambda: time.monotonic() - self._started_s >= ALARMS_SETTLE_S,
            time_scale=settings.time_scale,
        )

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
                Chore("roll up evidence", ROLL_UP_EVERY_S, lambda: stores.evidence.roll_up(clock.now_s())),
                Chore(
                    "forget assignments",
                    ROLL_UP_EVERY_S,
                    lambda: stores.assignments.forget_old(clock.now_s()),
                ),
                # Without it memory rises by megabytes over an hour; it takes milliseconds.
                Chore("give memory back", ROLL_UP_EVERY_S, give_back_what_is_free),
            ],
            time.monotonic,
        )
        self._collector = Collector(
            settings.spool_dir, stores.objects, stores.objects, clock, entropy, recorder.on_captured
        )
        self._assignment_collector = AssignmentCollector(
            settings.spool_dir / FOLDER, stores.assignments, recorder.on_logged
        )
        self._leftovers = Leftovers(
            settings.run_dir / "counts",
            {CAPTURE: self._collector, ASSIGNMENT: self._assignment_collector},
            recorder.on_metrics,
        )
        # A thread of its own: megabytes of records on their way to a slow store hold up nothing else.
        self._collecting = Loop(
            lambda _: self._collector.collect_once(),
            [Chore("leftovers of routers", LEFTOVERS_EVERY_S, self._leftovers.hand_in)],
            time.monotonic,
            name="capture",
            idle_wait_s=COLLECT_EVERY_S,
        )
        # Not behind megabytes of captured records: outcomes are joined with what it moves.
        self._logging = Loop(
            lambda _: self._assignment_collector.collect_once(),
            [],
            time.monotonic,
            name="assignments",
            idle_wait_s=LOG_EVERY_S,
        )
        ground_truth = GroundTruthLoop(stores.records, stores.objects, stores.outcomes, clock)
        self._labelling = Loop(
            lambda _: ground_truth.tick(),
            [],
            time.monotonic,
            name="ground truth",
            idle_wait_s=READ_GROUND_TRUTH_EVERY_S,
        )
        verdicts, labels, shadows = build_judging(stores, clock, place)
        autopilots = AutopilotLoop(stores.records, stores.evidence, clock, place, lambda: self._loop.nudge())

        def judge(_: bool) -> bool:
            more = verdicts.tick()
            autopilots.tick(verdicts.live())
            return more

        self._judging = Loop(judge, [], time.monotonic, name="verdicts", idle_wait_s=JUDGE_EVERY_S)
        self._measuring = Loop(
            lambda _: labels.tick(),
            [],
            time.monotonic,
            name="label evidence",
            idle_wait_s=MEASURE_LABELS_EVERY_S,
        )
        self._judging_shadows = Loop(
            lambda _: shadows.tick(),
            [],
            time.monotonic,
            name="shadow verdicts",
            idle_wait_s=MEASURE_LABELS_EVERY_S,
        )
        webhooks = parse_webhooks(settings.alarm_webhooks)
        self._delivery = ActionDelivery(stores.records, clock, webhooks, time_scale=settings.time_scale)
        self._delivering = Loop(
            lambda reread: self._delivery.tick(reread=reread),
            [],
            time.monotonic,
            name="webhooks",
            idle_wait_s=DELIVER_EVERY_S,
        )

        def alarms_changed() -> None:
            self._loop.nudge()  # rollouts that an alarm guards
            self._delivering.nudge()

        alarms = AlarmLoop(
            stores.records,
            stores.series,
            clock,
            ActionRules(place, facts["endpoint_url"], webhooks),
            alarms_changed,
            time_scale=settings.time_scale,
        )
        # A thread of its own: reading many metrics keeps no rollout waiting.
        self._alarming = Loop(
            lambda reread: alarms.tick(reread=reread),
            [],
            time.monotonic,
            name="alarms",
            idle_wait_s=ALARMS_EVERY_S,
        )

        def nudge_alarms() -> None:
            self._alarming.nudge()
            self._delivering.nudge()

        services = Services(
            records=stores.records,
            buckets=stores.objects,
            objects=stores.objects,
            series=stores.series,
            logs=stores.logs,
            stages=stores.evidence,
            evidence=stores.evidence,
            assignments=stores.assignments,
            outcomes=stores.outcomes,
            clock=clock,
            entropy=entropy,
            place=place,
            endpoint_url=facts["endpoint_url"],
            nudge=self._nudge,
            nudge_alarms=nudge_alarms,
            webhooks=webhooks,
        )
        credentials = Credentials(settings.credentials_path)
        self._gateway = gateway = Gateway(
            services,
            OPERATIONS,
            credentials.keys,
            "none" if settings.auth == "none" else "sigv4",
            signing_clock=RealClock(),  # signatures are real time, whatever the scale
        )
        self._own_calls = own_calls = OwnCalls(
            services, OWN_CALLS, credentials.keys, settings.auth, signing_clock=RealClock()
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
                elif own_calls.owns(scope["path"]):
                    face = own_calls
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
            own_call=self._own_calls.perform_checked,
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

    def _nudge(self) -> None:
        """Tell every loop that reads records to look at them now."""
        self._loop.nudge()
        self._labelling.nudge()
        self._judging.nudge()

    def run(self) -> None:
        """Serve until SIGTERM; workers run on."""
        Path("controller.sock").unlink(missing_ok=True)
        self._started_s = time.monotonic()
        self._alarming.start()  # before the loop that acts on what alarms say
        self._loop.start()
        self._collecting.start()
        self._logging.start()
        self._labelling.start()
        self._judging.start()
        self._measuring.start()
        self._judging_shadows.start()
        self._delivering.start()
        # AWS's models and the like live as long as the process: no collection need look at them, and a day of
        # data points, tens of thousands of objects for a moment, is not looked at after every 700 of them.
        set_aside_what_lives_long(2_000, 10, 10)
        try:
            self._server.run()
        finally:
            self._gateway.close()
            self._console.close()
            self._own_calls.close()
            self._loop.stop()
            self._labelling.stop()
            self._judging.stop()
            self._measuring.stop()
            self._judging_shadows.stop()
            self._collecting.stop()
            self._logging.stop()
            self._alarming.stop()
            self._delivering.stop()
            self._delivery.close()
            self._collector.collect_once()  # what the routers completed when they ended
            self._assignment_collector.collect_once()
            self._leftovers.hand_in()
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
