"""Artifacts: the address of model data -> a directory of its files, shared and never changed.

Owns ``DATA/artifacts``: ``<digest>/`` holds the files of one archive or prefix, ``<digest>.json`` its
manifest (name, size and SHA-256 of each file; the digest is of the archive's bytes, or of the manifest for
plain objects), ``sources/`` remembers which version of which address had which digest.  A directory
appears whole (built in ``quarantine-*``, renamed) and is checked against its manifest whenever an
instance takes it; a damaged one is fetched again.  Refuses ``file://`` outside the allowed roots, and
archives that break the rules of :mod:`understudy.runtimes.unpack`, which runs as a child process with
rlimits.  Main function: :meth:`Artifacts.fetch`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from understudy.core.errors import ApiError
from understudy.core.ports import Objects
from understudy.runtimes.back_seats import take_back_seat
from understudy.runtimes.failures import PreparationFailed

_UNPACKER = Path(__file__).with_name("unpack.py")
_CHUNK_BYTES = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:/@-]{0,62}")
_VERSION_BYTES = 1024
_VERIFY_BYTES = 256 * 1024**2  # contents are re-read up to here per start, sizes always

Check = Callable[[], None]  # raises when nobody wants the result any more


@dataclass(frozen=True)
class Limits:
    """What an artifact may be at most.

    Attributes:
        max_ratio: Unpacked : packed, looked at beyond 100 MiB unpacked.
        max_depth: Directories below each other.
    """

    max_bytes: int = 20 * 1024**3
    max_members: int = 100_000
    max_depth: int = 32
    max_ratio: int = 200


@dataclass(frozen=True)
class Artifact:
    """Model data at hand.

    Attributes:
        path: Absolute directory; read-only by convention and by mode.
        digest: SHA-256 hex.
    """

    path: Path
    digest: str


def said_of(model_dir: Path) -> tuple[str, str]:
    """Read the name and version that an artifact gives itself: ``[NAME] VERSION`` in its file ``VERSION``.

    The file is at the top or in ``code/``; what is no such line says nothing.

    Returns:
        Each "" where it is not given.
    """
    for path in (model_dir / "VERSION", model_dir / "code" / "VERSION"):
        if not path.is_file():
            continue
        with path.open("rb") as file:
            lines = file.read(_VERSION_BYTES).decode("utf-8", "replace").splitlines()
        words = lines[0].split() if lines else []
        if 1 <= len(words) <= 2 and all(_WORD.fullmatch(word) for word in words):
            return (words[0] if len(words) == 2 else "", words[-1])
    return "", ""


class Artifacts:
    """Fetches, verifies and unpacks.

    Args:
        root: ``DATA/artifacts``.
        objects: Where ``s3://`` leads.
        allowed_roots: Directories below which ``file://`` may point; links are resolved first.
        concurrent_fetches: At the same time; further ones wait.
    """

    def __init__(
        self,
        root: Path,
        objects: Objects,
        *,
        allowed_roots: Sequence[Path] = (),
        limits: Limits | None = None,
        concurrent_fetches: int = 4,
    ) -> None:
        self._root = root.absolute()
        self._objects = objects
        self._allowed_roots = tuple(Path(os.path.realpath(allowed)) for allowed in allowed_roots)
        self._limits = limits or Limits()
        self._fetches = threading.BoundedSemaphore(concurrent_fetches)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._sources = self._root / "sources"
        self._sources.mkdir(parents=True, exist_ok=True)
        for leftover in self._root.glob("quarantine-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)

    def empty(self) -> Artifact:
        """Return the directory of a container without model data."""
        path = self._root / "empty"
        path.mkdir(exist_ok=True)
        return Artifact(path, hashlib.sha256(b"").hexdigest())

    def fetch(self, url: str, *, compressed: bool, timeout_s: float, check: Check = lambda: None) -> Artifact:
        """Make model data available.

        Args:
            url: ``s3://bucket/key`` or ``file:///path``, of an archive (tar, tar.gz) or, not
                compressed, of a prefix or directory.
            timeout_s: Real seconds for everything.
            check: Called now and then; what it raises ends the fetch.

        Raises:
            PreparationFailed: in AWS's words where it has some, naming address and remedy.
        """
        with self._lock:
            lock = self._locks.setdefault(f"{compressed} {url}", threading.Lock())
        with lock:  # instances of one fleet ask at the same time: fetch once
            deadline = time.monotonic() + timeout_s

            def checked() -> None:
                check()
                if time.monotonic() > deadline:
                    raise PreparationFailed(
                        f"Failed to download model data from {url}: not done within {timeout_s:g} s "
                        "(ModelDataDownloadTimeoutInSeconds)."
                    )

            source = self._source(url, compressed)
            known = self._known(source)
            if known is not None:
                return known
            with self._fetches:
                checked()
                quarantine = Path(tempfile.mkdtemp(prefix="quarantine-", dir=self._root))
                try:
                    return self._take(source, quarantine, checked, deadline)
                finally:
                    shutil.rmtree(quarantine, ignore_errors=True)

    # --- addresses -----------------------------------------------------------------------------------

    def _source(self, url: str, compressed: bool) -> _Source:
        """Look an address up: what is there, and which version of it."""
        parts = urlsplit(url)
        if parts.scheme == "s3":
            return self._s3_source(url, parts.netloc, parts.path.removeprefix("/"), compressed)
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return self._file_source(url, Path(unquote(parts.path)))
        raise PreparationFailed(f"Model data address {url!r} is neither s3:// nor file:///.")

    def _s3_source(self, url: str, bucket: str, key: str, compressed: bool) -> _Source:
        try:
            if compressed:
                info = self._objects.head(bucket, key)
                version = ["s3", bucket, key, info.etag, info.size_bytes, info.modified_at_s]
                return _Source(
                    url, _digest(version), (_Item("", key, info.size_bytes, bucket),), archive=True
                )
            items: list[_Item] = []
            version = ["s3-prefix", bucket, key]
            after = ""
            while page := self._objects.list(bucket, key, after):
                for info in page:
                    name = info.key[len(key) :].lstrip("/")
                    if name and not name.endswith("/"):
                        items.append(_Item(name, info.key, info.size_bytes, bucket))
                        version += [info.key, info.etag, info.size_bytes, info.modified_at_s]
                after = page[-1].key
        except ApiError as error:
            raise _missing(url, error) from error
        if not items:
            raise PreparationFailed(f"Could not find model data at {url}.")
        return _Source(url, _digest(version), tuple(items), archive=False)

    def _file_source(self, url: str, path: Path) -> _Source:
        self._check_allowed(url, Path(os.path.realpath(path)))  # first: its existence is nobody's business
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise PreparationFailed(f"Could not find model data at {url}. ({error.strerror})") from error
        try:
            # Ask the kernel what was opened: no link can be swapped in after the check.
            real = Path(f"/proc/self/fd/{descriptor}").readlink()
            self._check_allowed(url, real)
            facts = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            return _directory_source(url, real)
        if not stat.S_ISREG(facts.st_mode):
            raise PreparationFailed(f"Model data at {url} is neither a file nor a directory.")
        version = ["file", str(real), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
        return _Source(url, _digest(version), (_Item("", str(real), facts.st_size),), archive=True)

    def _check_allowed(self, url: str, real: Path) -> None:
        if not any(real.is_relative_to(root) for root in self._allowed_roots):
            raise PreparationFailed(
                f"Model data at {url} lies outside the directories that file:// may name. Put it into the "
                "object store (s3://), or add its directory to the allowed roots in the settings."
            )

    # --- content -------------------------------------------------------------------------------------

    def _known(self, source: _Source) -> Artifact | None:
        """Return what an earlier fetch of the same version left, when it is still whole."""
        try:
            digest = (self._sources / source.version).read_text("ascii")
        except OSError:
            return None
        # An empty file, from before a power cut, would name the root itself.
        return self._whole(digest) if _DIGEST.fullmatch(digest) else None

    def _whole(self, digest: str) -> Artifact | None:
        path = self._root / digest
        try:
            manifest = json.loads((self._root / f"{digest}.json").read_text("utf-8"))
            if not path.is_dir():
                return None
            left = _VERIFY_BYTES
            for name, size_bytes, sha256 in manifest["files"]:
                file = path / os.fsdecode(bytes.fromhex(name))
                if file.lstat().st_size != size_bytes:
                    raise ValueError(f"{file.name} changed")
                left -= size_bytes
                if left >= 0 and _file_digest(file) != sha256:
                    raise ValueError(f"{file.name} changed")
        except FileNotFoundError:
            if not path.exists():
                return None
        except ValueError:
            pass
        else:
            return Artifact(path, digest)
        self._discard(digest)
        return None

    def _discard(self, digest: str) -> None:
        """Take a damaged directory out of the way; workers that have its files open keep them."""
        (self._root / f"{digest}.json").unlink(missing_ok=True)
        trash = Path(tempfile.mkdtemp(prefix="quarantine-", dir=self._root))
        path = self._root / digest
        if path.exists():
            path.chmod(0o755)
            path.rename(trash / "damaged")
        _make_writable(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _take(self, source: _Source, quarantine: Path, checked: Check, deadline: float) -> Artifact:
        """Copy, unpack, publish."""
        tree = quarantine / "tree"
        tree.mkdir()
        total_bytes = sum(item.size_bytes for item in source.items)
        if total_bytes > self._limits.max_bytes:
            raise PreparationFailed(
                f"Model data at {source.url} has {total_bytes} bytes; the limit is {self._limits.max_bytes}."
            )
        if len(source.items) > self._limits.max_members:
            raise PreparationFailed(
                f"Model data at {source.url} has {len(source.items)} files; "
                f"the limit is {self._limits.max_members}."
            )
        digest = ""
        if source.archive:
            archive = quarantine / "archive"
            digest = self._copy(source, source.items[0], archive, checked)
            ready = self._whole(digest)
            if ready is None:
                self._unpack(source, archive, tree, checked, deadline)
        else:
            for item in source.items:
                parts = item.name.split("/")
                if any(part in ("", ".", "..") or "\0" in part for part in parts):
                    raise PreparationFailed(
                        f"Model data at {source.url} has a key that is no path: {item.name!r}."
                    )
                if len(parts) > self._limits.max_depth:
                    raise PreparationFailed(f"Model data at {source.url} lies too deep: {item.name!r}.")
                target = tree.joinpath(*parts)
                try:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    self._copy(source, item, target, checked)
                except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                    raise PreparationFailed(
                        f"Model data at {source.url} has {item.name!r} both as a file and as a directory."
                    ) from error
            ready = None
        if ready is None:
            ready = self._publish(tree, digest)
        _write_whole(self._sources / source.version, ready.digest)
        return ready

    def _publish(self, tree: Path, digest: str) -> Artifact:
        files = [
            [os.fsencode(file.relative_to(tree)).hex(), file.stat().st_size, _file_digest(file)]
            for file in sorted(tree.rglob("*"))
            if file.is_file()
        ]
        digest = digest or _digest(files)
        final = self._root / digest
        for directory, _, names in os.walk(tree):
            for name in names:
                file = Path(directory, name)
                file.chmod(0o555 if file.stat().st_mode & 0o100 else 0o444)
            if directory != str(tree):
                Path(directory).chmod(0o555)
        with self._lock:  # two addresses may hold the same bytes
            if not final.exists():
                _write_whole(self._root / f"{digest}.json", json.dumps({"files": files}))
                tree.rename(final)
                final.chmod(0o555)  # after the rename, which needs to write to it
            else:
                _make_writable(tree)
        return Artifact(final, digest)

    def _copy(self, source: _Source, item: _Item, target: Path, checked: Check) -> str:
        """Copy one object or file, within its announced size, and return its SHA-256."""
        digest = hashlib.sha256()
        taken = 0
        try:
            with target.open("xb") as file:
                for data in self._content(item):
                    checked()
                    taken += len(data)
                    if taken > item.size_bytes:
                        break
                    digest.update(data)
                    file.write(data)
        except ApiError as error:
            raise _missing(source.url, error) from error
        except FileExistsError:
            raise
        except OSError as error:
            raise PreparationFailed(
                f"Failed to download model data from {source.url}: {error.strerror or error}."
            ) from error
        if taken != item.size_bytes:
            raise PreparationFailed(
                f"Failed to download model data from {source.url}: it changed while it was read. Try again."
            )
        return digest.hexdigest()

    def _content(self, item: _Item) -> Iterator[bytes]:
        if item.bucket is not None:
            yield from self._objects.read(item.bucket, item.location)
            return
        descriptor = os.open(item.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            real = Path(f"/proc/self/fd/{descriptor}").readlink()
            if not any(real.is_relative_to(root) for root in self._allowed_roots):
                raise OSError("it was moved out of the allowed directories")
            while data := file.read(_CHUNK_BYTES):
                yield data

    def _unpack(self, source: _Source, archive: Path, tree: Path, checked: Check, deadline: float) -> None:
        limits = self._limits
        cpu_s = 60 + archive.stat().st_size // (5 * 1024**2)
        numbers = [limits.max_bytes, limits.max_members, limits.max_depth, limits.max_ratio, cpu_s]
        with archive.open("rb") as file:
            child = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_UNPACKER), *map(str, numbers)],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=tree,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONUTF8": "1"},
                start_new_session=True,
            )
        take_back_seat(child.pid, for_good=True)
        try:
            while True:
                try:
                    answer, _ = child.communicate(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    checked()
        finally:
            child.kill()
            child.wait()
        try:
            report = json.loads(answer)
        except ValueError:
            report = {
                "refused": f"the unpacking process was ended by its limits (exit code {child.returncode})"
            }
        if "refused" in report:
            raise PreparationFailed(f"Failed to extract model data from {source.url}: {report['refused']}.")


@dataclass(frozen=True)
class _Item:
    """One object or file to copy: its name in the tree, where it is, how large it is."""

    name: str
    location: str
    size_bytes: int
    bucket: str | None = None


@dataclass(frozen=True)
class _Source:
    """What an address holds now; ``version`` changes when that does."""

    url: str
    version: str
    items: tuple[_Item, ...]
    archive: bool


def _directory_source(url: str, top: Path) -> _Source:
    items: list[_Item] = []
    version: list[object] = ["directory", str(top)]
    for directory, names, files in os.walk(top):
        names.sort()
        for name in sorted([*names, *files]):
            path = Path(directory, name)
            facts = path.lstat()
            if stat.S_ISDIR(facts.st_mode):
                continue
            shown = path.relative_to(top)
            if not stat.S_ISREG(facts.st_mode):
                raise PreparationFailed(
                    f"Model data at {url} has {str(shown)!r}, which is no plain file. Copy what it points to."
                )
            items.append(_Item(str(shown), str(path), facts.st_size))
            version += [str(shown), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns]
    if not items:
        raise PreparationFailed(f"Could not find model data at {url}. (The directory is empty.)")
    return _Source(url, _digest(version), tuple(items), archive=False)


def _missing(url: str, error: ApiError) -> PreparationFailed:
    """Put an object store's error into the words that SageMaker has for it."""
    if error.status == 404:
        return PreparationFailed(f"Could not find model data at {url}.")
    return PreparationFailed(f"Failed to download model data from {url}: {error.code}: {error.message}")


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_whole(path: Path, text: str) -> None:
    """Write a file that readers see whole or not at all."""
    temporary = path.with_name(f".{path.name}.{threading.get_ident()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _make_writable(top: Path) -> None:
    for directory, _, _ in os.walk(top):
        Path(directory).chmod(0o755)
