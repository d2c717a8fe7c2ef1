"""The supervisor: holds the listening socket and the lifeline, starts and restarts the other processes.

Owns no state of the service: it can be killed at any time and loses nothing.  Every other process
reads the lifeline pipe and ends when the supervisor does.  Main function: :func:`supervise`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import setproctitle

from understudy.settings import Settings, SettingsError

LISTEN_BACKLOG = 4096
FIRST_RESTART_DELAY_S = 0.05
LONGEST_RESTART_DELAY_S = 5.0
HEALTHY_AFTER_S = 5.0  # a child that lived so long starts its back-off anew
ROUTER_DRAIN_S = 37.0  # a router gives its requests 30 s, then shadows, the spool and metrics theirs
CONTROLLER_STOP_S = 10.0
LEFTOVERS_STOP_S = 5.0
READY_POLL_S = 0.02
PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Child:
    """A process that is restarted when it ends."""

    name: str
    spawn: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    started_at_s: float = 0.0
    restart_at_s: float = 0.0
    delay_s: float = field(default=FIRST_RESTART_DELAY_S)


def supervise(settings: Settings, *, on_ready: Callable[[str], None]) -> int:
    """Run a server until SIGTERM or SIGINT.

    Args:
        settings: Checked settings; ``data_dir`` absolute.
        on_ready: Called once with the endpoint URL when the whole path answers.

    Returns:
        The exit code: 0 after a clean stop, 1 where the controller can't work with these settings (it has
        said why).

    Raises:
        SettingsError: the data directory is in use, holds files that ``ephemeral`` would remove or can't
            be written, or the address can't be taken.
    """
    lock = _take_data_dir(settings)
    try:
        _ensure_credentials(settings)
        listener = _listen(settings.host, settings.port)
        with listener:
            port = listener.getsockname()[1]
            shown = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
            url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
            return _Supervisor(settings, listener, url).run(on_ready)
    finally:
        os.close(lock)
        if settings.ephemeral:
            shutil.rmtree(settings.data_dir, ignore_errors=True)


def _take_data_dir(settings: Settings) -> int:
    """Make the data directory ours alone and lock it; return the lock's descriptor."""
    data_dir = Path(settings.data_dir)
    try:
        if settings.ephemeral and data_dir.is_dir() and any(data_dir.iterdir()):
            raise SettingsError(
                f"--ephemeral removes the data directory at the end, but {data_dir} is not empty. "
                "Name a new one, or leave --data-dir out for a temporary one."
            )
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if data_dir.stat().st_uid == os.geteuid():
            # Models, logs and objects are private, also in a directory that was there before us.
            data_dir.chmod(0o700)
        settings.run_dir.mkdir(mode=0o700, exist_ok=True)
        return _take_lock(settings.run_dir / "lock", settings.data_dir)
    except OSError as error:
        raise SettingsError(
            f"--data-dir {data_dir} can't be used: {error.strerror} ({error.filename})."
        ) from error


def _take_lock(path: Path, data_dir: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError(
            f"Another server runs on {data_dir}. Stop it, or choose another --data-dir."
        ) from None
    return descriptor


def _ensure_credentials(settings: Settings) -> None:
    """Make the access key at the first start; later starts keep it, and the place it was made for.

    Raises:
        SettingsError: the settings name another region or account than the first start did.
    """
    path = settings.credentials_path
    if not path.exists():
        # AWS's form: "AKIA" and 16 characters of base32; a 40-character secret.
        key_id = "AKIA" + "".join(secrets.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") for _ in range(16))
        credentials = {
            "access_key_id": key_id,
            "secret_access_key": secrets.token_urlsafe(30),
            "region": settings.region,
            "account_id": settings.account_id,
        }
        _write_atomically(path, credentials)
        return
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise SettingsError(
            f"{path} is damaged: {error}. Put it back from a backup; or remove it for new keys."
        ) from error
    if (stored["region"], stored["account_id"]) != (settings.region, settings.account_id):
        raise SettingsError(
            f"{settings.data_dir} speaks for region {stored['region']} and account {stored['account_id']} "
            f"since its first start: its ARNs say so. Start with --region {stored['region']} and "
            f"UNDERSTUDY_ACCOUNT_ID={stored['account_id']}, or choose another --data-dir."
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), port))
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Can't listen on {host}:{port}: {error.strerror}. Choose another --port (0 takes a free one)."
        ) from error
    return listener


class _Supervisor:
    def __init__(self, settings: Settings, listener: socket.socket, url: str) -> None:
        self._settings = settings
        self._listener = listener
        self._url = url
        self._stopping = False
        self._ready = False
        self._refused = False
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._children = [Child("controller", self._spawn_controller)] + [
            Child(f"router {number}", lambda number=number: self._spawn_router(number))  # type: ignore[misc]
            for number in range(settings.router_count)
        ]

    def run(self, on_ready: Callable[[str], None]) -> int:
        setproctitle.setproctitle("understudy serve")
        if sys.platform == "linux":
            # Workers outlive the controller that started them; they become ours to reap.
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.set_wakeup_fd(self._wake_write)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._write_facts()
            for child in self._children:
                self._start(child)
            while not self._stopping:
                self._wait(self._next_restart_s() if self._ready else READY_POLL_S)
                self._reap()
                self._restart_due()
                if not self._ready and not self._stopping and self._answers():
                    self._ready = True
                    on_ready(self._url)
        finally:
            self._stop_all()
        return 1 if self._refused else 0

    # --- children ----------------------------------------------------------------------------------

    def _spawn_controller(self) -> subprocess.Popen[bytes]:
        return self._spawn(["-m", "understudy.app", "--lifeline-fd", str(self._lifeline_read)], ())

    def _spawn_router(self, number: int) -> subprocess.Popen[bytes]:
        settings = self._settings
        facts = json.loads((settings.run_dir / "server.json").read_text())
        arguments = ["-m", "understudy.dataplane", "--router", str(number)]
        arguments += ["--listen-fd", str(self._listener.fileno()), "--lifeline-fd", str(self._lifeline_read)]
        arguments += ["--run-dir", str(settings.run_dir), "--credentials", str(settings.credentials_path)]
        arguments += ["--auth", settings.auth, "--time-scale", str(settings.time_scale)]
        arguments += ["--time-anchor", str(facts["time_anchor_s"])]
        arguments += ["--spool-dir", str(settings.spool_dir)]
        return self._spawn(arguments, (self._listener.fileno(),))

    def _spawn(self, arguments: list[str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self._settings.run_dir,
            stdin=subprocess.DEVNULL,
            pass_fds=(self._lifeline_read, *descriptors),
            # Ctrl-C reaches the whole foreground group: the order of stopping is ours to keep.
            start_new_session=True,
        )

    def _start(self, child: Child) -> None:
        child.process = child.spawn()
        child.started_at_s = time.monotonic()

    def _reap(self) -> None:
        """Collect every ended process, adopted workers included, and schedule restarts."""
        known = {child.process.pid: child for child in self._children if child.process is not None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = known.get(pid)
            if child is None or child.process is None:
                continue
            child.process.returncode = code = os.waitstatus_to_exitcode(status)
            child.process = None
            if code == os.EX_CONFIG and not self._ready:
                # Trying again would say the same again; once it has worked, the cause may pass.
                self._refused = self._stopping = True
            now_s = time.monotonic()
            if now_s - child.started_at_s >= HEALTHY_AFTER_S:
                child.delay_s = FIRST_RESTART_DELAY_S
            child.restart_at_s = now_s + child.delay_s
            child.delay_s = min(child.delay_s * 2, LONGEST_RESTART_DELAY_S)
            if not self._stopping:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                sys.stderr.write(f"understudy {child.name} (pid {pid}) {how}; starting it again.\n")
                sys.stderr.flush()

    def _restart_due(self) -> None:
        if self._stopping:
            return
        now_s = time.monotonic()
        for child in self._children:
            if child.process is None and child.restart_at_s <= now_s:
                self._start(child)

    def _next_restart_s(self) -> float | None:
        waiting = [child.restart_at_s for child in self._children if child.process is None]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _answers(self) -> bool:
        """Tell whether the whole path answers: socket, router, controller."""
        try:
            with socket.create_connection(self._listener.getsockname()[:2], timeout=2.0) as probe:
                probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b'"status":"ok"' in probe.makefile("rb").read().replace(b": ", b":")
        except OSError:
            return False

    # --- stopping ----------------------------------------------------------------------------------

    def _on_stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _stop_all(self) -> None:
        """Routers first (they finish what is in flight), then the controller, then all workers at once."""
        self._stopping = True
        controller, *routers = self._children
        self._end(routers, ROUTER_DRAIN_S)
        self._end([controller], CONTROLLER_STOP_S)
        os.close(self._lifeline_write)
        self._end_leftovers()
        self._remove_cpu_groups()
        (self._settings.run_dir / "server.json").unlink(missing_ok=True)

    def _end(self, children: list[Child], patience_s: float) -> None:
        for child in children:
            if child.process is not None:
                child.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + patience_s
        while any(child.process is not None for child in children):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                for child in children:
                    if child.process is not None:
                        child.process.kill()
                deadline_s = time.monotonic() + LEFTOVERS_STOP_S
            self._wait(max(0.0, min(left_s, 0.5)))
            self._reap()

    def _end_leftovers(self) -> None:
        """Wait for workers to see the end of the lifeline; kill those that don't."""
        deadline_s = time.monotonic() + LEFTOVERS_STOP_S
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                if time.monotonic() > deadline_s:
                    for orphan in _children_of(os.getpid()):
                        os.kill(orphan, signal.SIGKILL)
                self._wait(0.05)

    def _remove_cpu_groups(self) -> None:
        """Remove the control groups of shadows' workers: the next server may never come."""
        for path in (self._settings.run_dir / "w").glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                folder = json.loads(path.read_text()).get("cpu_group")
                if folder:
                    Path(folder).rmdir()

    # --- plumbing ----------------------------------------------------------------------------------

    def _wait(self, timeout_s: float | None) -> None:
        """Sleep until a signal or the timeout."""
        ready, _, _ = select.select([self._wake_read], [], [], timeout_s)
        if ready:
            try:
                while os.read(self._wake_read, 512):
                    pass
            except BlockingIOError:
                pass

    def _write_facts(self) -> None:
        """Tell the children and the command line where this server is and how it was set."""
        settings = self._settings
        clock_path = Path(settings.data_dir) / "clock.json"
        if clock_path.exists():
            anchor_s = json.loads(clock_path.read_text())["anchor_s"]
        else:
            anchor_s = time.time()  # noqa: TID251 - the anchor of the scaled clock itself
            _write_atomically(clock_path, {"anchor_s": anchor_s})
        _write_atomically(
            settings.run_dir / "server.json",
            {
                "pid": os.getpid(),
                "endpoint_url": self._url,
                "started_at_s": time.time(),  # noqa: TID251 - shown to people
                "routers": settings.router_count,
                "time_anchor_s": anchor_s,
                "settings": {name: getattr(settings, name) for name in settings.__dataclass_fields__},
            },
        )


def _write_atomically(path: Path, value: object) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _children_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []
