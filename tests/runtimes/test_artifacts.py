"""Artifacts: fetched once, unpacked safely, shared, checked, and refused with words that help."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_bench import archive

from understudy.runtimes.artifacts import Artifact, Artifacts, Limits, said_of
from understudy.runtimes.failures import Cancelled, PreparationFailed
from understudy.stores.memory_objects import MemoryObjects
from understudy.system import RealClock

URL = "s3://models/model.tar.gz"
DATA = Path(__file__).parents[3] / "shared" / "data" / "churn" / "models"


class _CountingObjects(MemoryObjects):
    """Knows how often contents were read."""

    reads = 0

    def read(self, bucket: str, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        self.reads += 1
        return super().read(bucket, key, start, length)


class Shelf:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.objects = _CountingObjects(RealClock())
        self.objects.create_bucket("models")
        self.files = directory / "files"
        self.files.mkdir()
        self.artifacts = self.new()

    def new(self, **limits: int) -> Artifacts:
        root = self.directory / "artifacts"
        return Artifacts(root, self.objects, allowed_roots=[self.files], limits=Limits(**limits))

    def take(self, content: bytes, artifacts: Artifacts | None = None) -> Artifact:
        self.objects.put("models", "model.tar.gz", [content])
        return (artifacts or self.artifacts).fetch(URL, compressed=True, timeout_s=60)

    def refused(self, content: bytes, artifacts: Artifacts | None = None) -> str:
        with pytest.raises(PreparationFailed) as caught:
            self.take(content, artifacts)
        left = sorted(path.name for path in (self.directory / "artifacts").iterdir())
        assert left == ["sources"], "nothing of a refused archive stays"
        return caught.value.reason


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def member(name: str, **facts: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for fact, value in facts.items():
        setattr(made, fact, value)
    return made


def packed(*members: tarfile.TarInfo, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=format) as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(b"x" * one.size) if one.isreg() else None)
    return buffer.getvalue()


def tree(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_an_archive_becomes_a_read_only_directory(shelf: Shelf) -> None:
    got = shelf.take(archive(**{"a.bin": b"1", "code/inference.py": b"2", "./b/c/d": b"3"}))
    assert tree(got.path) == {"a.bin": b"1", "code/inference.py": b"2", "b/c/d": b"3"}
    for path in [got.path, *got.path.rglob("*")]:
        assert not path.stat().st_mode & 0o222
    assert got.path.name == got.digest
    assert not list(shelf.directory.glob("artifacts/quarantine-*"))


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_honest_tar_is_read(shelf: Shelf, mode: Any, format: int) -> None:
    buffer = io.BytesIO()
    long = "d" * 90 + "/" + "f" * 90
    with tarfile.open(fileobj=buffer, mode=mode, format=format) as tar:
        tar.addfile(member(".", type=tarfile.DIRTYPE))
        tar.addfile(member("empty", type=tarfile.DIRTYPE))
        tar.addfile(member(long, size=3_000_000, mode=0o755), io.BytesIO(b"\7" * 3_000_000))
    got = shelf.take(buffer.getvalue())
    assert tree(got.path) == {long: b"\7" * 3_000_000}
    assert (got.path / "empty").is_dir()
    assert os.access(got.path / long, os.X_OK)


@pytest.mark.shared_data
def test_awss_own_model_is_read(shelf: Shelf) -> None:
    source = DATA / "xgb-churn-prediction-model.tar.gz"
    if not source.exists():
        pytest.skip("needs ../shared/data beside the checkout")
    got = shelf.take(source.read_bytes())
    assert got.digest.startswith("607ca703")
    assert list(tree(got.path)) == ["xgboost-model"]


def test_it_is_fetched_once_for_all(shelf: Shelf) -> None:
    first = shelf.take(archive(a=b"1"))
    got: list[Artifact] = []

    def fetch() -> None:
        got.append(shelf.artifacts.fetch(URL, compressed=True, timeout_s=60))

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [first] * 8
    assert shelf.new().fetch(URL, compressed=True, timeout_s=60) == first
    assert shelf.objects.reads == 1


def test_a_new_version_is_another_directory(shelf: Shelf) -> None:
    one = shelf.take(archive(a=b"1"))
    two = shelf.take(archive(a=b"22"))
    assert one.path != two.path
    assert (tree(one.path), tree(two.path)) == ({"a": b"1"}, {"a": b"22"})


def test_the_same_bytes_elsewhere_are_the_same_directory(shelf: Shelf) -> None:
    content = archive(a=b"1")
    (shelf.files / "m.tar.gz").write_bytes(content)
    url = f"file://{shelf.files}/m.tar.gz"
    assert shelf.take(content) == shelf.artifacts.fetch(url, compressed=True, timeout_s=60)


@pytest.mark.parametrize("damage", ["changed", "shorter", "gone", "no manifest", "no digest"])
def test_a_damaged_directory_is_fetched_again(shelf: Shelf, damage: str) -> None:
    got = shelf.take(archive(a=b"123", b=b"4"))
    file = got.path / "a"
    got.path.chmod(0o755)
    file.chmod(0o644)
    if damage == "changed":
        file.write_bytes(b"321")
    elif damage == "shorter":
        file.write_bytes(b"12")
    elif damage == "gone":
        file.unlink()
    elif damage == "no manifest":
        (shelf.directory / "artifacts" / f"{got.digest}.json").unlink()
    else:  # as a power cut leaves files that were not on disk yet
        for source in (shelf.directory / "artifacts" / "sources").iterdir():
            source.write_bytes(b"")
    again = shelf.artifacts.fetch(URL, compressed=True, timeout_s=60)
    assert tree(again.path) == {"a": b"123", "b": b"4"}


def test_a_prefix_of_plain_objects(shelf: Shelf) -> None:
    for key, content in {"m/a": b"1", "m/code/x.py": b"2", "m/": b"", "mother": b"3"}.items():
        shelf.objects.put("models", key, [content])
    got = shelf.artifacts.fetch("s3://models/m/", compressed=False, timeout_s=60)
    assert tree(got.path) == {"a": b"1", "code/x.py": b"2"}
    assert shelf.artifacts.fetch("s3://models/m/", compressed=False, timeout_s=60) == got
    shelf.objects.put("models", "m/a", [b"9"])
    assert tree(shelf.artifacts.fetch("s3://models/m/", compressed=False, timeout_s=60).path)["a"] == b"9"


@pytest.mark.parametrize("key", ["m/../../x", "m/a/../b", "m/a//b", "m/" + "d/" * 40 + "f"])
def test_keys_that_are_no_paths_are_refused(shelf: Shelf, key: str) -> None:
    shelf.objects.put("models", key, [b"1"])
    with pytest.raises(PreparationFailed):
        shelf.artifacts.fetch("s3://models/m/", compressed=False, timeout_s=60)
    assert not list(shelf.directory.rglob("x"))


class TestFiles:
    """``file://``, below the allowed roots only."""

    def fetch(self, shelf: Shelf, path: Path | str) -> Artifact:
        return shelf.artifacts.fetch(f"file://{path}", compressed=True, timeout_s=60)

    def test_a_directory_is_copied(self, shelf: Shelf) -> None:
        (shelf.files / "model" / "code").mkdir(parents=True)
        (shelf.files / "model" / "code" / "inference.py").write_bytes(b"1")
        got = self.fetch(shelf, shelf.files / "model")
        (shelf.files / "model" / "code" / "inference.py").write_bytes(b"2")
        assert tree(got.path) == {"code/inference.py": b"1"}
        assert tree(self.fetch(shelf, shelf.files / "model").path) == {"code/inference.py": b"2"}

    def test_outside_is_refused_without_telling_what_is_there(self, shelf: Shelf) -> None:
        outside = shelf.directory / "secret.tar.gz"
        texts = []
        for present in (False, True):
            if present:
                outside.write_bytes(archive(a=b"1"))
            with pytest.raises(PreparationFailed, match="lies outside the directories") as caught:
                self.fetch(shelf, outside)
            texts.append(caught.value.reason)
        assert texts[0] == texts[1]

    @pytest.mark.parametrize("way", ["link", "dots", "directory link", "inner link", "fifo", "prefix"])
    def test_ways_out_are_refused(self, shelf: Shelf, way: str) -> None:
        (shelf.directory / "secret").mkdir()
        (shelf.directory / "secret" / "m.tar.gz").write_bytes(archive(a=b"1"))
        target: Path | str = shelf.files / "m.tar.gz"
        if way == "link":
            (shelf.files / "m.tar.gz").symlink_to(shelf.directory / "secret" / "m.tar.gz")
        elif way == "dots":
            target = f"{shelf.files}/../secret/m.tar.gz"
        elif way == "directory link":
            (shelf.files / "d").symlink_to(shelf.directory / "secret")
            target = shelf.files / "d" / "m.tar.gz"
        elif way == "inner link":
            target = shelf.files / "model"
            (shelf.files / "model").mkdir()
            (shelf.files / "model" / "m").symlink_to(shelf.directory / "secret" / "m.tar.gz")
        elif way == "fifo":
            os.mkfifo(shelf.files / "m.tar.gz")
        else:
            (shelf.directory / "files-of-others").mkdir()
            (shelf.directory / "files-of-others" / "m.tar.gz").write_bytes(archive(a=b"1"))
            target = shelf.directory / "files-of-others" / "m.tar.gz"
        with pytest.raises(PreparationFailed):
            self.fetch(shelf, target)

    def test_a_link_within_the_roots_is_fine(self, shelf: Shelf) -> None:
        (shelf.files / "v1.tar.gz").write_bytes(archive(a=b"1"))
        (shelf.files / "latest.tar.gz").symlink_to("v1.tar.gz")
        assert tree(self.fetch(shelf, shelf.files / "latest.tar.gz").path) == {"a": b"1"}

    @pytest.mark.parametrize("url", ["http://x/m.tar.gz", "/m.tar.gz", "file://host/m.tar.gz", "s3:/x", ""])
    def test_other_addresses_are_refused(self, shelf: Shelf, url: str) -> None:
        with pytest.raises(PreparationFailed):
            shelf.artifacts.fetch(url, compressed=True, timeout_s=60)


class TestHostileArchives:
    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (lambda: packed(member("../evil", size=1)), "climbs out"),
            (lambda: packed(member("a/../../evil", size=1)), "climbs out"),
            (lambda: packed(member("/tmp/evil", size=1)), "absolute name"),
            (lambda: packed(member("s", type=tarfile.SYMTYPE, linkname="/etc/passwd")), "is a link"),
            (lambda: packed(member("h", type=tarfile.LNKTYPE, linkname="/etc/passwd")), "is a link"),
            (
                lambda: packed(member("d", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
                "neither a plain file",
            ),
            (lambda: packed(member("d", type=tarfile.BLKTYPE)), "neither a plain file"),
            (lambda: packed(member("d", type=tarfile.FIFOTYPE)), "neither a plain file"),
            (lambda: packed(member("a", size=1), member("a", size=2)), "appears twice"),
            (lambda: packed(member("a", size=1), member("a/b", size=2)), "both a file and a directory"),
            (lambda: packed(member("d/" * 33 + "f", size=1)), "deeper than 32"),
            (lambda: packed(member("n" * 300, size=1)), "more than 255 bytes"),
            (lambda: packed(member("/".join(["n" * 200] * 6), size=1)), "more than 1024 bytes"),
            (lambda: packed(), "it is empty"),
            (lambda: b"", "is empty, or cut short"),
            (lambda: b"PK\3\4 this is a zip", "no tar archive"),
            (lambda: gzip.compress(b"this is not a tar"), "no tar archive"),
            (lambda: packed(member("a", size=100_000))[:-60], "damaged"),
            (lambda: archive(a=os.urandom(5000))[:-2000], "damaged"),
        ],
    )
    def test_refused(self, shelf: Shelf, content: Callable[[], bytes], told: str) -> None:
        reason = shelf.refused(content())
        assert reason.startswith(f"Failed to extract model data from {URL}: ")
        assert told in reason
        assert not list(shelf.directory.rglob("evil"))

    @pytest.mark.parametrize("length", [50_000, 512 + 100_352, 512 + 100_352 + 300])
    def test_a_truncated_tar_within_a_whole_gzip(self, shelf: Shelf, length: int) -> None:
        whole = gzip.decompress(packed(member("a", size=100_000), member("b", size=9)))
        assert "Failed to extract" in shelf.refused(gzip.compress(whole[:length]))

    def test_a_damaged_header_is_not_taken_for_the_end(self, shelf: Shelf) -> None:
        plain = bytearray(gzip.decompress(packed(member("a", size=1), member("b", size=1))))
        assert plain[1024:1025] == b"b"
        plain[1024:1025] = b"c"
        assert "it is damaged" in shelf.refused(gzip.compress(bytes(plain)))

    @pytest.mark.parametrize("keyword", ["GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size"])
    def test_sparse_by_pax(self, shelf: Shelf, keyword: str) -> None:
        value = {"GNU.sparse.major": "1", "GNU.sparse.map": "0,1", "GNU.sparse.size": "1000"}[keyword]
        headers = {keyword: value, "GNU.sparse.minor": "0", "GNU.sparse.realsize": "99999999999"}
        assert "Failed to extract" in shelf.refused(packed(member("a", size=512, pax_headers=headers)))

    def test_a_lying_pax_size(self, shelf: Shelf) -> None:
        content = packed(member("a", size=1, pax_headers={"size": "99999999999"}))
        assert "Failed to extract" in shelf.refused(content)

    def test_a_huge_pax_header(self, shelf: Shelf) -> None:
        content = packed(member("a", size=1, pax_headers={"comment": "x" * 50_000_000}))
        got = None
        try:
            got = shelf.take(content)
        except PreparationFailed as failure:
            assert "Failed to extract" in failure.reason
        assert got is None or tree(got.path) == {"a": b"x"}

    def test_a_bomb_of_zeros(self, shelf: Shelf) -> None:
        bomb = packed(member("zeros", size=300 * 1024**2))
        assert len(bomb) < 1024**2
        assert "more than 200 times its size" in shelf.refused(bomb)

    def test_more_bytes_than_allowed(self, shelf: Shelf) -> None:
        content = archive(a=os.urandom(200_000))
        assert "bytes" in shelf.refused(content, shelf.new(max_bytes=100_000))
        small = archive(a=b"0" * 200_000)
        assert "more than 100000 bytes" in shelf.refused(small, shelf.new(max_bytes=100_000))

    def test_more_members_than_allowed(self, shelf: Shelf) -> None:
        content = packed(*[member(f"f{n}", size=1) for n in range(30)])
        assert "more than 20 members" in shelf.refused(content, shelf.new(max_members=20))

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.data())
    def test_any_damage_is_survived(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        shelf = Shelf(tmp_path_factory.mktemp("shelf"))
        plain = bytearray(gzip.decompress(archive(a=b"1" * 700, **{"b/c": b"2"})))
        for at in data.draw(st.lists(st.integers(0, 2047), min_size=1, max_size=8)):
            plain[at] = data.draw(st.integers(0, 255))
        shelf.objects.put("models", "model.tar.gz", [gzip.compress(bytes(plain))])
        try:
            got = shelf.artifacts.fetch(URL, compressed=True, timeout_s=60)
        except PreparationFailed as failure:
            assert failure.reason.startswith("Failed to extract model data from")
        else:
            assert all(path.resolve().is_relative_to(got.path) for path in got.path.rglob("*"))
        outside = {path.name for path in shelf.directory.iterdir()}
        assert outside == {"files", "artifacts"}


def test_what_is_missing_is_told_in_awss_words(shelf: Shelf) -> None:
    with pytest.raises(PreparationFailed) as caught:
        shelf.artifacts.fetch(URL, compressed=True, timeout_s=60)
    assert caught.value.reason == f"Could not find model data at {URL}."
    with pytest.raises(PreparationFailed, match=r"Could not find model data at s3://models/none/\."):
        shelf.artifacts.fetch("s3://models/none/", compressed=False, timeout_s=60)


def test_a_fetch_that_nobody_wants_ends(shelf: Shelf) -> None:
    shelf.objects.put("models", "model.tar.gz", [archive(a=b"1")])

    def gone() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        shelf.artifacts.fetch(URL, compressed=True, timeout_s=60, check=gone)
    assert sorted(p.name for p in (shelf.directory / "artifacts").iterdir()) == ["sources"]


def test_a_fetch_that_takes_too_long_ends(shelf: Shelf) -> None:
    shelf.objects.put("models", "model.tar.gz", [archive(a=b"1")])
    with pytest.raises(PreparationFailed, match="not done within 0 s"):
        shelf.artifacts.fetch(URL, compressed=True, timeout_s=0)


def test_what_a_killed_process_left_is_swept(shelf: Shelf) -> None:
    (shelf.directory / "artifacts" / "quarantine-x").mkdir()
    shelf.new()
    assert not list(shelf.directory.glob("artifacts/quarantine-*"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1.4.2\n", ("", "1.4.2")),
        ("churn 1.4.2+git.abc\nmore", ("churn", "1.4.2+git.abc")),
        ("", ("", "")),
        ("\n1.0", ("", "")),
        ("one two three", ("", "")),
        ('"quoted"', ("", "")),
        ("<script>", ("", "")),
        ("v" * 5000, ("", "")),
        ("\u202e1.0", ("", "")),
    ],
)
@pytest.mark.parametrize("folder", [".", "code"])
def test_what_an_artifact_says_of_itself(
    tmp_path: Path, folder: str, text: str, said: tuple[str, str]
) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "VERSION").write_text(text, encoding="utf-8")
    assert said_of(tmp_path) == said


def test_an_artifact_may_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "VERSION").mkdir()
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "VERSION").write_bytes(b"\xff\x00")
    assert said_of(tmp_path) == ("", "")
