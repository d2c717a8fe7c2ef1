"""Child process that unpacks one archive from stdin into its working directory, by rules of its own.

Stand-alone (stdlib only, run as a script): the parent starts it with limits as arguments, it lowers its own
rlimits before it reads the first byte.  Only regular files and directories are written; links, devices,
sparse members, absolute names, ``..`` and anything beyond a cap are refused, and a refusal is the answer:
one JSON line on stdout, ``{"files": n, "bytes": n}`` or ``{"refused": why}``.

``tarfile`` reads the headers only; its extraction and its filters are not used.  A bug in it costs
this process, which holds no secret and can write nowhere else by any path it builds.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
import sys
import tarfile
from contextlib import suppress
from typing import BinaryIO, cast

_CHUNK_BYTES = 1 << 20
_RATIO_FROM_BYTES = 100 * 1024**2  # small archives may compress as well as they like
_COMPONENT_BYTES = 255
_PATH_BYTES = 1024


class Refused(Exception):
    """The archive breaks a rule; the text names the member and the rule."""


class _Member(tarfile.TarInfo):
    """A header; unlike ``tarfile`` it takes a damaged one for damage, not for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the zeros at a whole archive's end
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise Refused("it is empty, or cut short: there is no end mark") from None
        except tarfile.HeaderError as error:
            raise Refused(f"it is damaged or no tar archive ({error})") from None


class _Counted:
    """A byte source that knows how many bytes went through."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self.bytes += len(data)
        return data


class _Expanded:
    """The tar stream: counts every byte that leaves the decompressor, headers and padding too."""

    def __init__(self, source: BinaryIO, raw: _Counted, max_bytes: int, max_ratio: int) -> None:
        self._source = source
        self._raw = raw
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(_CHUNK_BYTES if size < 0 else min(size, _CHUNK_BYTES))
        self.bytes += len(data)
        if self.bytes > self._max_bytes:
            raise Refused(f"it unpacks to more than {self._max_bytes} bytes")
        if self.bytes > _RATIO_FROM_BYTES and self.bytes > self._max_ratio * max(1, self._raw.bytes):
            raise Refused(f"it unpacks to more than {self._max_ratio} times its size")
        return data


def main(max_bytes: int, max_members: int, max_depth: int, max_ratio: int, cpu_s: int) -> int:
    """Unpack stdin into the working directory and report on stdout."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    try:
        report: dict[str, object] = dict(
            unpack(sys.stdin.buffer, max_bytes, max_members, max_depth, max_ratio)
        )
    except Refused as refusal:
        report = {"refused": str(refusal)}
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError, ValueError, OverflowError) as error:
        report = {"refused": f"it is damaged or no tar archive ({type(error).__name__}: {error})"}
    except (MemoryError, RecursionError) as error:
        report = {"refused": f"its headers are too large ({type(error).__name__})"}
    except Exception as error:  # noqa: BLE001 - whatever zlib or tarfile raise on hostile bytes is a refusal
        report = {"refused": f"it is damaged ({type(error).__name__}: {error})"}
    sys.stdout.write(json.dumps(report))
    sys.stdout.flush()
    return 0 if "refused" not in report else 1


def unpack(
    source: BinaryIO, max_bytes: int, max_members: int, max_depth: int, max_ratio: int
) -> dict[str, int]:
    """Write the archive's files and directories below the working directory.

    Raises:
        Refused: a rule is broken; what was written so far stays for the parent to discard.
    """
    raw = _Counted(source)
    first = raw.read(2)
    joined = _Joined(first, raw)
    plain: BinaryIO = cast(BinaryIO, joined)
    if first == b"\x1f\x8b":
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=plain))
    expanded = _Expanded(plain, raw, max_bytes, max_ratio)
    members = files = 0
    stream = cast(BinaryIO, expanded)
    with tarfile.open(fileobj=stream, mode="r|", bufsize=64 * 1024, tarinfo=_Member) as archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
            members += 1
            if members > max_members:
                raise Refused(f"it has more than {max_members} members")
            parts = checked_parts(member, max_depth)
            if not parts:
                continue
            if member.isdir():
                os.close(_open_directory(parts))
                continue
            _write(archive, member, parts)
            files += 1
        while expanded.read(_CHUNK_BYTES):  # the checksum of gzip comes last
            pass
    if members == 0:
        raise Refused("it is empty")
    return {"files": files, "bytes": expanded.bytes}


class _Joined:
    """Bytes already read, then the rest."""

    def __init__(self, head: bytes, rest: _Counted) -> None:
        self._head = head
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if not self._head:
            return self._rest.read(size)
        if size < 0:
            head, self._head = self._head, b""
            return head + self._rest.read()
        head, self._head = self._head[:size], self._head[size:]
        return head if head else self._rest.read(size)


def checked_parts(member: tarfile.TarInfo, max_depth: int) -> list[str]:
    """Return a member's path as components; empty for the archive's own top directory.

    Raises:
        Refused: the member is of a kind or has a name that is not taken.
    """
    name = member.name
    shown = ascii(name[:200])
    if member.issym() or member.islnk():
        raise Refused(f"member {shown} is a link; pack the file itself (tar --dereference)")
    if member.issparse() or member.type not in (
        tarfile.REGTYPE,
        tarfile.AREGTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
    ):
        raise Refused(f"member {shown} is neither a plain file nor a directory")
    if member.size < 0:
        raise Refused(f"member {shown} has a negative size")
    if "\0" in name or name.startswith("/"):
        raise Refused(
            f"member {shown} has an absolute name" if name[:1] == "/" else f"member {shown} has a NUL"
        )
    if len(os.fsencode(name)) > _PATH_BYTES:
        raise Refused(f"member {shown} has a path of more than {_PATH_BYTES} bytes")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise Refused(f"member {shown} climbs out with '..'")
    if len(parts) > max_depth:
        raise Refused(f"member {shown} lies deeper than {max_depth} directories")
    if any(len(os.fsencode(part)) > _COMPONENT_BYTES for part in parts):
        raise Refused(f"member {shown} has a name of more than {_COMPONENT_BYTES} bytes")
    return parts


def _open_directory(parts: list[str]) -> int:
    """Open (creating what is missing) a directory by walking down from ``.``, following no link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(".", flags)
    for part in parts:
        try:
            with suppress(FileExistsError):
                os.mkdir(part, 0o755, dir_fd=descriptor)
            try:
                deeper = os.open(part, flags, dir_fd=descriptor)
            except NotADirectoryError:
                raise Refused(f"{part!a} is both a file and a directory") from None
        finally:
            os.close(descriptor)
        descriptor = deeper
    return descriptor


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, parts: list[str]) -> None:
    """Write one regular file."""
    directory = _open_directory(parts[:-1])
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        mode = 0o755 if member.mode & 0o100 else 0o644
        descriptor = os.open(parts[-1], flags, mode, dir_fd=directory)
    except FileExistsError:
        raise Refused(f"member {member.name[:200]!a} appears twice") from None
    finally:
        os.close(directory)
    with open(descriptor, "wb") as target:
        content = archive.extractfile(member)
        left = member.size
        while left and content is not None:
            data = content.read(min(left, _CHUNK_BYTES))
            if not data:
                raise Refused(f"it ends in the middle of member {member.name[:200]!a}")
            target.write(data)
            left -= len(data)


if __name__ == "__main__":
    raise SystemExit(main(*(int(argument) for argument in sys.argv[1:6])))
