"""What the console costs: ``python -m bench.console``.

Measures the first page, a page of ten variants with a day of data, the controller's CPU per refresh, and what
fifty viewers do to the latency of invocations.  Needs a Chromium and a quiet machine (``--only viewers``
takes four minutes).  Prints one table.
"""

from __future__ import annotations

import argparse
import http.client
import importlib.util
import itertools
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import boto3
import psutil
from playwright.sync_api import sync_playwright

from understudy.core.metrics import Summary, instance_data, router_data
from understudy.core.ports import InstanceState, InstanceStatus
from understudy.demo.server import start_server
from understudy.sdk.servers import Server
from understudy.settings import process_environment
from understudy.stores.series import SqliteSeries

ROOT = Path(__file__).parents[1]
VARIANTS = [f"v{number}" for number in range(10)]
DAY_S = 86_400
VIEWERS = 50
ROUNDS = 3
SHOWN = 4  # charts that are on the screen and read at once; those below follow the eye
INVOKE_S = 5.0
RATE = 500.0  # invocations a second: a moderate load
SENDERS = 8
GROUPS = 8  # of four times INVOKE_S


def staging() -> Any:
    """Load the stage of the browser journeys."""
    spec = importlib.util.spec_from_file_location("console_stage", ROOT / "tests/journeys/console_stage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fill(path: Path) -> None:
    """Write a day of minutes for ten variants, as routers and instances would have."""
    series = SqliteSeries(path)
    end_s = int(time.time()) - 60
    for start_s in range(end_s - DAY_S, end_s, 3600):
        items, states = [], []
        for minute in range(60):
            at_s = start_s + 60 * minute
            for number, variant in enumerate(VARIANTS):
                latencies = [1000.0 + (at_s * 7 + number * 131 + one * 977) % 9000 for one in range(60)]
                told = Summary.of(latencies).to_json()
                items.append(
                    {
                        "endpoint": "ten",
                        "variant": variant,
                        "config": "",
                        "at_s": at_s,
                        "invocations": 60,
                        "per_instance": 60.0,
                        "errors_5xx": int(minute == number),
                        "model_latency_us": told,
                        "overhead_latency_us": told,
                    }
                )
            states = [
                InstanceState(
                    f"ten/{variant}/f1/0-a",
                    InstanceStatus.READY,
                    cpu_percent=20.0,
                    memory_percent=30.0,
                    disk_percent=5.0,
                )
                for variant in VARIANTS
            ]
            series.record(instance_data(states, at_s))
        series.record(router_data(items))
        series.roll_up(start_s + 3600)  # the controller does so each minute
    series.close()


class Served:
    """A server as the stage wants it."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def data_dir(self) -> Path:
        assert self.server.data_dir is not None
        return self.server.data_dir

    def client(self, service: str, **options: Any) -> Any:
        return boto3.session.Session().client(
            service,
            endpoint_url=self.server.endpoint_url,
            region_name=self.server.region,
            aws_access_key_id=self.server.access_key_id,
            aws_secret_access_key=self.server.secret_access_key,
            **options,
        )


def controller_of(server: Server) -> psutil.Process:
    """Find the controller's process."""
    assert server.pid is not None
    for one in psutil.Process(server.pid).children():
        if "controller" in " ".join(one.cmdline()):
            return one
    raise SystemExit("the controller was not found")


def cpu_s(process: psutil.Process) -> float:
    """CPU seconds so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def pages(browser: Any, server: Server) -> dict[str, float]:
    """Open pages and read how long the browser took."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(f"{server.endpoint_url}/console/")
    page.get_by_label("Access key ID").fill(server.access_key_id)
    page.get_by_label("Secret access key").fill(server.secret_access_key)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Overview").wait_for()
    state = context.storage_state()
    page.close()
    context.close()
    found: dict[str, list[float]] = {
        "first page, ms": [],
        "first page again, ms": [],
        "ten variants, a day, ms": [],
    }
    process = controller_of(server)
    watch = (
        "new MutationObserver(() => { if (%s) window.drawnAt ??= performance.now(); })"
        ".observe(document, {subtree: true, childList: true, attributes: true})"
    )
    for _ in range(ROUNDS):
        context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 900})
        page = context.new_page()
        page.add_init_script(
            watch % "document.documentElement?.dataset.drawn && document.querySelector('tbody tr')"
        )
        for what in ("first page, ms", "first page again, ms"):
            page.goto(f"{server.endpoint_url}/console/")
            page.locator("html[data-drawn]").wait_for(state="attached")
            page.locator("tbody tr").first.wait_for()
            found[what].append(page.evaluate("window.drawnAt"))
        page.close()
        page = context.new_page()
        page.set_viewport_size({"width": 1280, "height": 2600})
        page.add_init_script(
            watch % "document.querySelectorAll('figure canvas').length >= SHOWN".replace("SHOWN", str(SHOWN))
        )
        page.goto(f"{server.endpoint_url}/console/endpoints/ten?range=24h")
        page.locator("figure canvas").nth(SHOWN - 1).wait_for()
        found["ten variants, a day, ms"].append(page.evaluate("window.drawnAt"))
        page.close()
        context.close()
    told = {name: statistics.median(values) for name, values in found.items()}
    # One viewer looks for a while: its samples, charts, events and logs.
    context = browser.new_context(storage_state=state, viewport={"width": 1280, "height": 2600})
    page = context.new_page()
    page.goto(f"{server.endpoint_url}/console/endpoints/ten?range=24h")
    page.locator("figure canvas").nth(SHOWN - 1).wait_for()
    page.wait_for_timeout(2000)
    idle = 1000 * idle_cpu(process, 20.0, page)
    told["controller CPU with a viewer, ms/s"] = idle
    context.close()
    told["controller CPU with nobody, ms/s"] = 1000 * idle_cpu(process, 10.0, None)
    return told


def idle_cpu(process: psutil.Process, seconds: float, page: Any) -> float:
    """CPU seconds per second over a while."""
    before, started_s = cpu_s(process), time.monotonic()
    if page is None:
        time.sleep(seconds)
    else:
        page.wait_for_timeout(1000 * seconds)
    return (cpu_s(process) - before) / (time.monotonic() - started_s)


@contextmanager
def viewers(server: Server, count: int) -> Iterator[None]:
    """Keep so many streams open."""
    host, port = server.endpoint_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port))
    body = json.dumps({"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key})
    connection.request("POST", "/console/api/sign-in", body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    cookie = (answer.getheader("set-cookie") or "").partition(";")[0]
    program = (
        "import http.client, selectors, sys\n"
        f"streams = []\nfor _ in range({count}):\n"
        f"    c = http.client.HTTPConnection({host!r}, {port})\n"
        f"    c.request('GET', '/console/api/live', headers={{'cookie': {cookie!r}}})\n"
        "    r = c.getresponse()\n    assert r.status == 200\n    streams.append((c, r))\n"
        "print('open', flush=True)\nchooser = selectors.DefaultSelector()\n"
        "for c, r in streams:\n    chooser.register(c.sock, selectors.EVENT_READ, c.sock)\n"
        "while True:\n    for key, _ in chooser.select():\n        key.data.recv(65536)\n"
    )
    watching = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert watching.stdout is not None and watching.stdout.readline() == b"open\n"
    try:
        yield
    finally:
        watching.terminate()
        watching.wait()
        watching.stdout.close()


def invoke(server: Server, per_s: float, seconds: float) -> list[float]:
    """Send in an open loop over a few kept connections; milliseconds from when each was due."""
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    url = f"{server.endpoint_url}/endpoints/ten/invocations"
    signed = AWSRequest("POST", url, headers={"Content-Type": "text/csv"}, data=b"1,2,3")
    SigV4Auth(
        Credentials(server.access_key_id, server.secret_access_key), "sagemaker", server.region
    ).add_auth(signed)
    host, port = server.endpoint_url.removeprefix("http://").split(":")
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.headers.items())
    request = (
        f"POST /endpoints/ten/invocations HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 5\r\n"
        f"{head}\r\n1,2,3"
    ).encode()
    took: list[float] = []

    def send(offset: int) -> None:
        with socket.create_connection((host, int(port))) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            started_s = time.monotonic()
            for number in range(offset, int(per_s * seconds), SENDERS):
                due_s = started_s + number / per_s
                time.sleep(max(0.0, due_s - time.monotonic()))
                connection.sendall(request)
                answer = b""
                while not answer.endswith(b"\r\n\r\n0"):  # the model always says 0
                    piece = connection.recv(65536)
                    if not piece:
                        raise SystemExit(f"the connection was closed after {answer!r}")
                    answer += piece
                took.append(1000 * (time.monotonic() - due_s))

    threads = [threading.Thread(target=send, args=(at,)) for at in range(SENDERS)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return took


def p99(values: list[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[int(0.99 * len(values))]


def effect(server: Server) -> dict[str, float]:
    """Compare invocations with and without viewers: pairs in turns, A B B A, so that drift counts for both.

    How far p99s of nobody against nobody differ tells what the machine alone does.
    """
    assert server.pid is not None
    controller = controller_of(server)
    routers = [one for one in psutil.Process(server.pid).children() if "router" in " ".join(one.cmdline())]
    arms: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    cpu: dict[tuple[bool, str], float] = {}
    invoke(server, RATE, 2.0)
    for watched in (False, True, True, False) * GROUPS:
        with viewers(server, VIEWERS) if watched else nullcontext():
            before = {"router": sum(map(cpu_s, routers)), "controller": cpu_s(controller)}
            took = invoke(server, RATE, INVOKE_S)
            after = {"router": sum(map(cpu_s, routers)), "controller": cpu_s(controller)}
        arms[watched].append((statistics.median(took), p99(took)))
        for name, used in after.items():
            cpu[watched, name] = cpu.get((watched, name), 0.0) + used - before[name]
    total_s = 2 * GROUPS * INVOKE_S
    told: dict[str, float] = {}
    for at, name in enumerate(("p50", "p99")):
        nobody, many = ([one[at] for one in arms[watched]] for watched in (False, True))
        ratios = [one / other for one, other in zip(many, nobody, strict=True)]
        alone = [max(one, other) / min(one, other) for one, other in itertools.pairwise(nobody)]
        low, _, high = statistics.quantiles(ratios, n=4)
        told |= {
            f"invocations' {name}, nobody looks, ms": statistics.median(nobody),
            f"invocations' {name}, {VIEWERS} viewers, ms": statistics.median(many),
            f"{name}: viewers against nobody, median of ratios": statistics.median(ratios),
            f"{name}: lower quartile": low,
            f"{name}: upper quartile": high,
            f"{name}: nobody against nobody, median of larger to smaller": statistics.median(alone),
        }
    for (watched, name), used in cpu.items():
        told[f"{name}'s CPU, {VIEWERS if watched else 'no'} viewers, ms/s"] = 1000 * used / total_s
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.console")
    parser.add_argument("--only", choices=["pages", "viewers"])
    only = parser.parse_args().only
    stages = staging()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        data = Path(folder) / "data"
        data.mkdir(mode=0o700)
        fill(data / "series.db")
        started = start_server(
            data, log=Path(folder) / "log", ephemeral=False, environment=process_environment()
        )
        try:
            stage = stages.Stage(Served(started.server))
            stage.models()
            stage.model(
                "quick",
                "def model_fn(d):\n    return 0\ndef transform_fn(m, b, c, a):\n    return '0', 'text/csv'\n",
            )
            stage.endpoint("ten", dict.fromkeys(VARIANTS, ("quick", 1.0)))
            told: dict[str, float] = {}
            if only != "viewers":
                browser = stages.launch(playwright)
                if browser is None:
                    sys.exit("No Chromium: run `make browser`.")
                told |= pages(browser, started.server)
                browser.close()
            if only != "pages":
                told |= effect(started.server)
        finally:
            started.stop()
    for name, value in told.items():
        print(f"{name:60} {value:10.3f}")


if __name__ == "__main__":
    main()
