"""Environments: an image plus the artifact's ``requirements.txt`` -> an interpreter with those packages.

Owns ``DATA/environments``: one directory per (interpreter, image entry, requirements), built by ``uv``
beside its place and renamed into it, never changed afterwards.  The interpreter that Understudy runs on
is used as it stands when it satisfies an image.  A build that failed leaves nothing behind, so the next
start tries again.  Refuses to build an image's packages from source (wheels only) and to download
interpreters.  Main function: :meth:`Environments.resolve`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import uv

from understudy.runtimes.back_seats import take_back_seat
from understudy.runtimes.failures import Cancelled, PreparationFailed
from understudy.runtimes.images import Image, requirement_name

Progress = Callable[[str], None]
_PARSER = "msgspec"
_READS_NUMBERS = ("xgboost", "auto")  # loaders whose workers use it
_FORMAT = 1  # of the directories; a new one leaves the old ones unused
# Never handed to anything that a model's author may influence.
_SECRET = re.compile(r"^AWS_|SECRET|TOKEN|PASSWORD|CREDENTIAL|^UNDERSTUDY_", re.IGNORECASE)
_URL_SECRET = re.compile(r"//[^/@\s]+@")
_UNREACHABLE = re.compile(
    r"error sending request|dns error|failed to lookup address|connection refused|timed out"
    r"|network was disabled|network connectivity|HTTP status server error|No space left",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Environment:
    """An interpreter that a model can run on.

    Attributes:
        python: Absolute path of the interpreter.
        python_version: ``3.11``.
        packages: Installed, ``name==version``, sorted; empty where the image asks for none.
        resolved: What Describe shows: ``xgboost:1.7-1 (python 3.11, xgboost 1.7.4)``.
    """

    python: str
    python_version: str
    packages: tuple[str, ...]
    resolved: str


class Environments:
    """Finds or builds environments.

    Args:
        root: ``DATA/environments``.
        environ: The server's process environment; ``UV_*``, proxies and PATH of it reach ``uv``,
            secrets don't.  ``UV_CACHE_DIR`` defaults to ``root/uv-cache``.
        python: Interpreter to build upon and to look for installed packages in.
        concurrent_builds: Builds at the same time; further ones wait.
    """

    def __init__(
        self,
        root: Path,
        *,
        environ: Mapping[str, str],
        python: str = sys.executable,
        concurrent_builds: int = 2,
    ) -> None:
        self._root = root
        self._python = python
        self._uv = os.fsdecode(uv.find_uv_bin())
        self._environ = {name: value for name, value in environ.items() if not _SECRET.search(name)}
        # Credentials of a package index are uv's own business.
        self._environ.update({name: value for name, value in environ.items() if name.startswith("UV_")})
        self._environ.setdefault("UV_CACHE_DIR", str(root / "uv-cache"))
        self._environ.update(UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1", NO_COLOR="1")
        self._environ.pop("VIRTUAL_ENV", None)
        self._builds = threading.BoundedSemaphore(concurrent_builds)
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[Environment]] = {}
        self._own: dict[str, Environment] = {}  # images that our own interpreter satisfies
        self._children: set[subprocess.Popen[str]] = set()
        self._closed = False
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)

    def resolve(self, image: Image, requirements: bytes | None, progress: Progress) -> Environment:
        """Return an environment for an image, building it where there is none.

        Callers that ask for the same one at the same time share one build and its outcome.

        Args:
            image: Entry of the registry.
            requirements: Content of ``code/requirements.txt``, None without one.
            progress: Told short phrases (``building environment xgboost 1.7.4``) and uv's lines, the
                latter beginning with ``uv: ``.

        Raises:
            PreparationFailed: nothing of it installs; ``reason`` ends with uv's last lines, ``log``
                has them all.
        """
        if not (requirements or b"").strip():
            requirements = None
        key = self._key(image, requirements)
        ready = self._own.get(key) or self._read(key)
        if ready is not None:
            return ready
        with self._lock:
            future = self._under_way.get(key)
            mine = future is None
            if future is None:
                future = self._under_way[key] = Future()
        if not mine:
            progress(f"waiting for environment {image.name}")
            return future.result()
        try:
            environment = self._installed(image) if requirements is None else None
            if environment is not None:
                self._own[key] = environment
            else:
                with self._builds, _file_lock(self._root / f".{key}.lock"):
                    environment = self._read(key) or self._build(key, image, requirements, progress)
        except BaseException as error:
            future.set_exception(error)
            raise
        else:
            future.set_result(environment)
            return environment
        finally:
            with self._lock:
                del self._under_way[key]

    def close(self) -> None:
        """End the builds that are under way; they leave nothing."""
        with self._lock:
            self._closed = True
            children = list(self._children)
        for child in children:
            child.terminate()

    def _key(self, image: Image, requirements: bytes | None) -> str:
        facts = [
            _FORMAT,
            os.path.realpath(self._python),
            sys.version,
            image.python,
            image.packages,
        ]
        digest = hashlib.sha256(json.dumps(facts).encode())
        digest.update(b"" if requirements is None else b"\0" + requirements)
        return digest.hexdigest()[:20]

    def _read(self, key: str) -> Environment | None:
        """Read a built environment's facts; one whose interpreter went away is not ready."""
        directory = self._root / key
        try:
            facts = json.loads((directory / "understudy.json").read_text("utf-8"))
            python = directory / "bin" / "python"
            if not os.access(python, os.X_OK):
                return None
            return Environment(
                str(python), facts["python_version"], tuple(facts["packages"]), facts["resolved"]
            )
        except (OSError, ValueError, KeyError):
            return None

    def _installed(self, image: Image) -> Environment | None:
        """Return Understudy's own interpreter when it satisfies the image as asked for."""
        own = f"{sys.version_info.major}.{sys.version_info.minor}"
        if image.python is not None and image.python != own:
            return None
        for candidate in image.packages:
            if image.asked is not None and not any(
                image.asked in requirement for requirement in candidate[:1]
            ):
                continue  # a neighbour of the version asked for is for when that one can't be installed
            if not candidate:
                return Environment(self._python, own, (), f"{image.name} (python {own})")
            wanted = [item for item in candidate if not item.startswith("--")]
            # Exact by uv's own reading of versions and markers; offline, as nothing is to be fetched.
            dry = ["pip", "install", "--dry-run", "--offline", "--python", self._python, *wanted]
            done = subprocess.run(
                [self._uv, *dry], env=self._environ, capture_output=True, text=True, check=False, timeout=60
            )
            if done.returncode == 0 and "Would install" not in done.stderr and "Would make no" in done.stderr:
                packages = self._freeze(self._python)
                return Environment(self._python, own, packages, _resolved(image, own, packages))
        return None

    def _build(self, key: str, image: Image, requirements: bytes | None, progress: Progress) -> Environment:
        temporary = Path(tempfile.mkdtemp(prefix="building-", dir=self._root))
        try:
            return self._build_in(temporary, key, image, requirements, progress)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _build_in(
        self, temporary: Path, key: str, image: Image, requirements: bytes | None, progress: Progress
    ) -> Environment:
        directory = temporary / "venv"
        progress(f"building environment {image.name}")
        python = self._python if image.python is None else image.python
        self._run(
            ["venv", "--relocatable", "--python", python, str(directory)],
            image,
            progress,
            what=f"make an environment on Python {image.python or 'of Understudy itself'}",
        )
        log: list[str] = []
        for candidate in image.packages:
            if not candidate:
                break
            progress(f"building environment {_phrase(candidate[0])}")
            arguments = ["pip", "install", "--only-binary", ":all:"]
            try:
                self._run([*arguments, "--python", str(directory), *candidate], image, progress)
                break
            except PreparationFailed as failure:
                log.append(failure.log)
                # A neighbour version is for a version that does not exist here, not for a broken network.
                if _UNREACHABLE.search(failure.log) or candidate is image.packages[-1]:
                    raise PreparationFailed(failure.reason, "\n".join(log)) from failure
        if image.loader in _READS_NUMBERS:
            self._add_parser(directory, image, progress)
        if requirements is not None:
            listed = temporary / "requirements.txt"
            listed.write_bytes(requirements)
            progress("installing code/requirements.txt")
            self._run(
                ["pip", "install", "--python", str(directory), "-r", str(listed)],
                image,
                progress,
                what="install code/requirements.txt of the model's artifact",
            )
        packages = self._freeze(str(directory))
        version = _python_version(directory)
        environment = Environment(
            str(self._root / key / "bin" / "python"), version, packages, _resolved(image, version, packages)
        )
        facts = {**asdict(environment), "image": image.name}
        (directory / "understudy.json").write_text(json.dumps(facts, indent=1), "utf-8")
        os.sync()  # or a power cut leaves a whole environment of empty files
        final = self._root / key
        if final.exists():  # its interpreter went away, or it was cut short by hand
            final.rename(temporary / "stale")
        directory.rename(final)
        return environment

    def _add_parser(self, directory: Path, image: Image, progress: Progress) -> None:
        """Install what a worker reads numbers faster with; without it, it gives the same answers."""
        add = ["pip", "install", "--only-binary", ":all:", "--no-deps", "--python", str(directory), _PARSER]
        try:
            self._run(add, image, progress)
        except PreparationFailed:
            progress(f"{_PARSER} is not to be had for this interpreter: rows are read without it")

    def _freeze(self, python: str) -> tuple[str, ...]:
        command = [self._uv, "pip", "freeze", "--python", python]
        done = subprocess.run(
            command, env=self._environ, capture_output=True, text=True, check=True, timeout=60
        )
        return tuple(sorted(line for line in done.stdout.splitlines() if "==" in line))

    def _run(self, arguments: Sequence[str], image: Image, progress: Progress, what: str = "") -> None:
        """Run uv, handing its lines on as they come.

        Raises:
            PreparationFailed: it failed.
            Cancelled: :meth:`close` was called.
        """
        with self._lock:
            if self._closed:
                raise Cancelled
            child = subprocess.Popen(
                [self._uv, *arguments],
                env=self._environ,
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            take_back_seat(child.pid, for_good=True)
            self._children.add(child)
        lines: deque[str] = deque(maxlen=2000)
        try:
            assert child.stdout is not None
            for line in child.stdout:
                shown = _URL_SECRET.sub("//***@", line.rstrip()).replace(f"{self._root}/", "")
                lines.append(shown)
                progress(f"uv: {shown}")
            code = child.wait()
        finally:
            child.kill()
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
            with self._lock:
                self._children.discard(child)
                closed = self._closed
        if closed:
            raise Cancelled
        if code != 0:
            told = " ".join(" ".join(list(lines)[-6:]).split())
            advice = f" {image.advice}" if image.advice else ""
            raise PreparationFailed(
                f"Could not {what or 'install the packages of image ' + repr(image.name)} on this host:"
                f"{advice} uv says: {told}",
                log="\n".join(lines),
            )


def _resolved(image: Image, python_version: str, packages: Sequence[str]) -> str:
    """Render what Describe shows as ResolvedImage.

    >>> image = Image("xgboost:1.2-1", (), "xgboost", (("xgboost==1.2.1",),), asked="1.2.0")
    >>> _resolved(image, "3.11", ["numpy==2.4.6", "xgboost==1.2.1"])
    'xgboost:1.2-1 (python 3.11, asked xgboost 1.2.0, nearest that installs: 1.2.1)'
    """
    versions = dict(package.split("==", 1) for package in packages)
    for candidate in image.packages:
        name = requirement_name(candidate[0]) if candidate else ""
        version = versions.get(name)
        if version is None:
            continue
        plain = version.partition("+")[0]
        if image.asked is not None and _release(plain) != _release(image.asked):
            told = f"asked {name} {image.asked}, nearest that installs: {version}"
        else:
            told = f"{name} {version}"
        return f"{image.name} (python {python_version}, {told})"
    return f"{image.name} (python {python_version})"


def _release(version: str) -> str:
    """Cut trailing zeros, so that 0.90 and 0.90.0 are one.

    >>> _release("0.90.0") == _release("0.90"), _release("1.2.0") == _release("1.2.1")
    (True, False)
    """
    parts = version.split(".")
    while len(parts) > 1 and parts[-1] == "0":
        parts.pop()
    return ".".join(parts)


def _phrase(requirement: str) -> str:
    """Say a requirement in words.

    >>> _phrase("xgboost==1.7.6"), _phrase("scikit-learn>=1.4")
    ('xgboost 1.7.6', 'scikit-learn>=1.4')
    """
    return requirement.replace("==", " ")


def _python_version(directory: Path) -> str:
    """Read a venv's Python version, ``3.11``, from its configuration."""
    for line in (directory / "pyvenv.cfg").read_text("utf-8").splitlines():
        name, _, value = line.partition("=")
        if name.strip() in ("version_info", "version"):
            return ".".join(value.strip().split(".")[:2])
    raise PreparationFailed(f"{directory.name}/pyvenv.cfg does not name its Python version")


@contextmanager
def _file_lock(path: Path) -> Iterator[None]:
    """Keep a second builder, of another process too, out."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(root: Path) -> None:
    """Remove what builders that were killed left, if none of them is alive."""
    locks = []
    try:
        for path in root.glob(".*.lock"):
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            locks.append(descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
        for path in root.glob("building-*"):
            shutil.rmtree(path, ignore_errors=True)
    finally:
        for descriptor in locks:
            os.close(descriptor)
