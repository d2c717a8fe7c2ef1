"""Is every request accounted for, whatever dies?  ``python -m bench.soak_capture --requests 1000000``.

Owns a server whose data lies on a small file system of its own, a steady load with everything captured and a
tenth mirrored, and harm: SIGKILL to routers, the controller, workers and everything at once, restarts, disks
that get full.  Then it reads what was captured, line by line, and holds it against ``/metrics`` and
against what the callers got.  Refuses to call a run good when one unit is missing.

With ``--durable`` an answer that is not kept is a 503 to its caller and shed all the same, so records and
2XX answers need not be as many; but no answer that a caller has may be without its record.
Main function: :func:`main`.

Where file systems can't be mounted there are no full disks, and the report says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import psutil
import uvloop
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from bench.processes import free_port

DISK_BYTES = 4 << 30
NEARLY_FULL_BYTES = 16 << 20  # left free: capture leaves them to others
FULL_FOR_S = 2.5
SETTLE_S = 90.0
CONNECTIONS = 16
ROLE = "arn:aws:iam::123456789012:role/soak"
ENDPOINT = "soaked"
MODEL = """\
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return body, "text/csv"
"""
_SAMPLE = re.compile(r"^(\w+)\{(.*)\} (\S+)$", re.MULTILINE)


class Server:
    """``understudy serve`` that may be killed and started again.

    Args:
        place: Its data and its log go there.
    """

    def __init__(self, place: Path, port: int) -> None:
        self.data_dir, self.port = place / "data", port
        self.url = f"http://127.0.0.1:{port}"
        self._log = place / "serve.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "understudy.cli", "serve", "--auth", "none", "--routers", "2"]
        command += ["--port", str(self.port), "--data-dir", str(self.data_dir)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._is_up, "the server answers")

    def _is_up(self) -> bool:
        try:
            with self._direct.open(self.url + "/healthz", timeout=2.0) as response:
                return bool(json.load(response)["status"] == "ok")
        except (OSError, ValueError):
            return False

    def stop(self) -> None:
        """End it as its operator would."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def kill_all(self) -> None:
        """SIGKILL to all of its processes at once."""
        assert self._process is not None
        for process in [*self._family(), psutil.Process(self._process.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(10)

    def _family(self) -> list[psutil.Process]:
        if self._process is None:
            return []
        with contextlib.suppress(psutil.NoSuchProcess):
            return list(psutil.Process(self._process.pid).children(recursive=True))
        return []

    def kill_one(self, title: str, dice: random.Random) -> bool:
        """SIGKILL to one of the processes of that title."""
        found = []
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith(title):
                    found.append(process)
        if not found:
            return False
        with contextlib.suppress(psutil.NoSuchProcess):
            dice.choice(found).kill()
        return True

    def client(self, service: str) -> Any:
        """Build a boto3 client."""
        return boto3.session.Session().client(
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="soak",
            aws_secret_access_key="soak",
            config=Config(proxies={}, retries={"max_attempts": 5}, read_timeout=60),
        )

    def counts(self) -> dict[tuple[str, str, str], int]:
        """Read ``/metrics``: by (family, variant, outcome)."""
        with self._direct.open(self.url + "/metrics", timeout=10.0) as response:
            text = response.read().decode()
        found = {}
        for name, labels, value in _SAMPLE.findall(text):
            told = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if told.get("endpoint") == ENDPOINT:
                found[name, told.get("variant", ""), told.get("outcome", "")] = int(float(value))
        return found


class Load:
    """Requests 0, 1, 2, … over kept connections; what callers got of each.

    Attributes:
        answered: Numbers whose whole 200 came.
        statuses: Count of all answers by status.
        broken: Requests that ended without an answer.
    """

    def __init__(self, port: int, requests: int, rate_per_s: float) -> None:
        self._port, self._requests, self._rate_per_s = port, requests, rate_per_s
        self._number = 0
        self._started_s = time.monotonic()
        self.answered = bytearray(requests)
        self.statuses: Counter[int] = Counter()
        self.broken = 0
        self.go_on: Callable[[], bool] = lambda: False

    @property
    def sent(self) -> int:
        """How many requests were begun."""
        return self._number

    async def run(self) -> None:
        """Send until all are sent and nobody wants more."""
        self._started_s = time.monotonic()
        await asyncio.gather(*(self._connection() for _ in range(CONNECTIONS)))

    def _wants_more(self) -> bool:
        return self._number < self._requests or self.go_on()

    async def _connection(self) -> None:
        while self._wants_more():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            try:
                while self._wants_more():
                    await self._pace()
                    number, self._number = self._number, self._number + 1
                    if number >= len(self.answered):  # harm takes longer than the requests asked for
                        self.answered.extend(bytes(number + 1))
                    if not await self._ask(reader, writer, number):
                        break
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                self.broken += 1
            finally:
                writer.close()

    async def _pace(self) -> None:
        ahead_s = self._number / self._rate_per_s - (time.monotonic() - self._started_s)
        if ahead_s > 0.002:
            await asyncio.sleep(ahead_s)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        if writer.is_closing():
            raise ConnectionResetError
        body = b"%d,0.5,1" % number
        writer.write(
            b"POST /endpoints/soaked/invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        async with asyncio.timeout(30):
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            lower = head.lower()
            answer = await reader.readexactly(int(lower.partition(b"content-length: ")[2].split(b"\r\n")[0]))
        self.statuses[status] += 1
        if status == 503:  # nobody can answer just now: tried again by most clients after a moment
            await asyncio.sleep(0.02)
        if status == 200:
            if answer != body:
                raise SystemExit(f"request {number} got {answer!r}")
            self.answered[number] = 1
        return b"connection: close" not in lower


class Faults(threading.Thread):
    """Does harm, one kind after the other, until the load is over.

    Attributes:
        done: Count by kind.
    """

    def __init__(self, server: Server, *, every_s: float, once: bool, seed: int, disk: Path | None) -> None:
        super().__init__(name="faults", daemon=True)
        self._server, self._every_s, self._once, self._disk = server, every_s, once, disk
        self._dice = random.Random(seed)
        self.done: Counter[str] = Counter()
        self.stopping = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        """Do harm."""
        kinds: dict[str, Callable[[], None]] = {
            "router": lambda: self._kill("understudy router"),
            "controller": lambda: self._kill("understudy controller"),
            "worker": lambda: self._kill(f"understudy worker {ENDPOINT}/live/"),
            "shadow": lambda: self._kill(f"understudy worker {ENDPOINT}/beside/"),
            "everything": self._kill_all,
            "restart": self._restart,
        }
        weights = {"router": 6, "controller": 4, "worker": 3, "shadow": 2, "everything": 1, "restart": 1}
        if self._disk is not None:
            kinds |= {"spool full": lambda: self._fill(NEARLY_FULL_BYTES), "disk full": lambda: self._fill(0)}
            weights |= {"spool full": 2, "disk full": 1}
        names = list(kinds)
        self._dice.shuffle(names)
        try:
            while not self.stopping.wait(self._dice.uniform(0.5, 1.5) * self._every_s):
                if self._once and not names:
                    return
                name = names.pop() if names else self._dice.choices([*kinds], [weights[k] for k in kinds])[0]
                kinds[name]()
                self.done[name] += 1
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for this thread
            self.problem = error

    def _kill(self, title: str) -> None:
        wait_for(lambda: self._server.kill_one(title, self._dice), f"there is a {title}")

    def _kill_all(self) -> None:
        self._server.kill_all()
        self._server.start()

    def _restart(self) -> None:
        self._server.stop()
        self._server.start()

    def _fill(self, left_bytes: int) -> None:
        assert self._disk is not None
        filler = self._disk / "filler"
        with filler.open("wb") as file:
            disk = os.statvfs(self._disk)
            free = disk.f_bavail * disk.f_frsize
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(1, free - left_bytes))
            self.stopping.wait(FULL_FOR_S)
        filler.unlink()


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = 60.0) -> Any:
    """Poll until something is true.

    Raises:
        TimeoutError: it does not come about.
    """
    deadline_s = time.monotonic() + patience_s
    while not (found := condition()):
        if time.monotonic() > deadline_s:
            raise TimeoutError(what)
        time.sleep(0.05)
    return found


def deploy(server: Server, *, durable: bool) -> None:
    """Make the endpoint: two instances of production, one of a shadow that gets a tenth, all captured."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    for bucket in ("soak-models", "soak-kept"):
        s3.create_bucket(Bucket=bucket)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        entry = tarfile.TarInfo("code/inference.py")
        entry.size = len(MODEL.encode())
        archive.addfile(entry, io.BytesIO(MODEL.encode()))
    s3.put_object(Bucket="soak-models", Key="model.tar.gz", Body=packed.getvalue())
    sagemaker.create_model(
        ModelName="echo",
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": "s3://soak-models/model.tar.gz"},
    )
    variant = {"ModelName": "echo", "InstanceType": "ml.m5.large"}
    live = {**variant, "VariantName": "live", "InitialInstanceCount": 2, "InitialVariantWeight": 1.0}
    beside = {**variant, "VariantName": "beside", "InitialInstanceCount": 1, "InitialVariantWeight": 0.1}
    sagemaker.create_endpoint_config(
        EndpointConfigName=ENDPOINT,
        ProductionVariants=[live],
        ShadowProductionVariants=[beside],
        DataCaptureConfig={
            "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://soak-kept/here",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"]},
        },
        Tags=[{"Key": "understudy:capture", "Value": "durable"}] if durable else [],
    )
    sagemaker.create_endpoint(EndpointName=ENDPOINT, EndpointConfigName=ENDPOINT)
    wait_for(lambda: status_of(server) == "InService", "the endpoint serves", 120.0)


def status_of(server: Server) -> str:
    """Describe the endpoint's status; "" while nobody answers."""
    try:
        return str(server.client("sagemaker").describe_endpoint(EndpointName=ENDPOINT)["EndpointStatus"])
    except (ClientError, BotoCoreError):
        return ""


def captured(server: Server, variant: str) -> Iterator[dict[str, Any]]:
    """Yield every captured record of a variant; every line must be JSON."""
    s3 = server.client("s3")
    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket="soak-kept", Prefix=f"here/{ENDPOINT}/{variant}/"
    )
    for page in pages:
        for one in page.get("Contents", []):
            for line in s3.get_object(Bucket="soak-kept", Key=one["Key"])["Body"].iter_lines():
                yield json.loads(line)


def verify(server: Server, load: Load, *, durable: bool) -> dict[str, Any]:
    """Hold records, counts and answers against each other; ``problems`` lists what does not fit."""
    problems: list[str] = []
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        counts = server.counts()
        facts = sums(counts)
        kept = counts.get(("understudy_capture_records_total", "live", "captured"), 0)
        fits = facts["captured + shed"] == facts["2XX answers"]
        if durable:
            fits = kept >= facts["2XX answers"] and facts["captured + shed"] <= facts["shadow outcomes"]
        fits = fits and facts["mirrored"] == facts["invocations of the shadow"]
        settled = fits and spool_is_empty(server)
        if settled or time.monotonic() > deadline_s:
            break
        time.sleep(0.5)
    if not settled:
        problems.append("captured + shed does not fit the number of answers, or the spool is not empty")
    numbers: set[int] = set()
    for variant in ("live", "beside"):
        events: set[str] = set()
        lines = 0
        for record in captured(server, variant):
            lines += 1
            events.add(record["eventMetadata"]["eventId"])
            if variant == "live":
                numbers.add(int(record["captureData"]["endpointInput"]["data"].partition(",")[0]))
        facts[f"lines of {variant}"] = lines
        told = counts.get(("understudy_capture_records_total", variant, "captured"), 0)
        if lines != told:
            problems.append(f"{lines} lines of {variant}, {told} are told")
        if len(events) != lines:
            problems.append(f"{lines - len(events)} eventIds of {variant} come twice")
    acknowledged = sum(load.answered)
    facts["acknowledged"] = acknowledged
    if facts["2XX answers"] < acknowledged:
        problems.append("callers have answers that are not counted")
    if facts["2XX answers"] - acknowledged > load.broken:
        problems.append("more answers are counted than callers can have missed")
    missing = sum(1 for number, got in enumerate(load.answered) if got and number not in numbers)
    facts["acknowledged without a record"] = missing
    shed = facts["captured + shed"] - counts.get(("understudy_capture_records_total", "live", "captured"), 0)
    facts["shed"] = shed
    if missing > (0 if durable else shed):
        problems.append(f"{missing} acknowledged answers have no record, {shed} are told")
    if not facts["2XX answers"] <= facts["shadow outcomes"] <= facts["invocations"]:
        problems.append("each request that was handed over has one outcome at the shadow")
    if load.statuses[503] == 0 and facts["shadow outcomes"] != facts["invocations"]:
        problems.append("outcomes at the shadow are not the number of production requests")
    if facts["mirrored"] != facts["invocations of the shadow"]:
        problems.append("not every copy is an invocation of the shadow")
    facts["outcomes"] = {
        f"{family.split('_')[1]} {variant} {outcome}": count
        for (family, variant, outcome), count in sorted(counts.items())
        if outcome and count
    }
    return {**facts, "problems": problems}


def sums(counts: dict[tuple[str, str, str], int]) -> dict[str, Any]:
    """Add up what ``/metrics`` tells."""

    def total(family: str, variant: str) -> int:
        return sum(
            count
            for (name, of, _), count in counts.items()
            if (name, of) == (f"understudy_{family}_total", variant)
        )

    failed = total("invocation_4xx_errors", "live") + total("invocation_5xx_errors", "live")
    return {
        "invocations": total("invocations", "live"),
        "2XX answers": total("invocations", "live") - failed,
        "captured + shed": total("capture_records", "live"),
        "shadow outcomes": total("shadow_requests", "beside"),
        "mirrored": counts.get(("understudy_shadow_requests_total", "beside", "mirrored"), 0),
        "invocations of the shadow": total("invocations", "beside"),
    }


def spool_is_empty(server: Server) -> bool:
    """Tell whether every record is in its file and no killed router's counts are left."""
    left = [path for path in (server.data_dir / "spool").iterdir() if path.suffix in (".spool", ".open")]
    return not left and len(list((server.data_dir / "run" / "counts").glob("*.counts"))) == 2


@contextlib.contextmanager
def small_disk() -> Iterator[tuple[Path, bool]]:
    """Mount a file system of its own; yield where, and whether that was possible."""
    with tempfile.TemporaryDirectory(prefix="understudy-soak-", ignore_cleanup_errors=True) as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "understudy-soak", folder]
        try:
            mounted = subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0
        except OSError:
            mounted = False
        try:
            yield Path(folder), mounted
        finally:
            if mounted:
                subprocess.run(["umount", "--lazy", folder], check=False, timeout=30)


def main(argv: list[str]) -> int:
    """Soak; return 0 when all is accounted for."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak_capture", description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--rate", type=float, default=1e9, help="requests per second at most")
    parser.add_argument("--durable", action="store_true", help="answers wait for their records: none is lost")
    parser.add_argument("--every", type=float, default=4.0, help="seconds from harm to harm, about")
    parser.add_argument("--once", action="store_true", help="each kind of harm once")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    options = parser.parse_args(argv)
    with small_disk() as (place, mounted):
        server = Server(place, free_port())
        load = Load(server.port, options.requests, options.rate)
        faults = Faults(
            server,
            every_s=options.every,
            once=options.once,
            seed=options.seed,
            disk=place if mounted else None,
        )
        started_s = time.monotonic()
        try:
            server.start()
            deploy(server, durable=options.durable)
            if options.once:
                load.go_on = faults.is_alive
            faults.start()
            uvloop.run(load.run())
            seconds = time.monotonic() - started_s
            faults.stopping.set()
            faults.join()
            if faults.problem is not None:
                raise faults.problem
            wait_for(lambda: status_of(server) == "InService", "the endpoint serves again", 120.0)
            facts = verify(server, load, durable=options.durable)
        except BaseException:
            sys.stderr.write("\n".join((place / "serve.log").read_text().splitlines()[-60:]) + "\n")
            raise
        finally:
            faults.stopping.set()
            if faults.is_alive():  # it starts servers
                faults.join(60.0)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.stop()
    report = {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "mode": "durable" if options.durable else "best effort",
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "sent": load.sent,
        "statuses": dict(load.statuses),
        "broken": load.broken,
        "harm": dict(faults.done),
        "disks": "tmpfs of its own" if mounted else "none could be mounted: no full disks",
        **facts,
    }
    print(json.dumps(report, indent=1))
    return 1 if facts["problems"] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    sys.exit(main(sys.argv[1:]))
