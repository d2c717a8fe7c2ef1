"""Settings: where they come from, which one wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.settings import Settings, SettingsError, is_loopback, load_settings


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_defaults_are_safe() -> None:
    settings = load_settings({}, environment={})
    assert (settings.host, settings.port, settings.auth) == ("127.0.0.1", 8080, "sigv4")
    assert settings.data_dir == str(Path.cwd() / ".understudy")


def test_the_command_line_wins_over_the_environment_over_the_file() -> None:
    Path("understudy.toml").write_text('port = 1\nregion = "eu-west-1"\nrouters = 3\n')
    environment = {"UNDERSTUDY_PORT": "2", "UNDERSTUDY_REGION": "eu-west-2"}
    settings = load_settings({"port": 3, "region": None}, environment=environment)
    assert (settings.port, settings.region, settings.routers) == (3, "eu-west-2", 3)


def test_texts_of_the_environment_become_what_they_mean() -> None:
    environment = {"UNDERSTUDY_TIME_SCALE": "60", "UNDERSTUDY_EPHEMERAL": "true"}
    settings = load_settings({}, environment=environment)
    assert settings.time_scale == 60.0 and settings.ephemeral is True


@pytest.mark.parametrize(
    ("overrides", "needle"),
    [
        ({"host": "0.0.0.0", "auth": "none"}, "--auth none"),
        ({"port": 70_000}, "--port 70000"),
        ({"time_scale": 0.0}, "--time-scale"),
        ({"time_scale": float("nan")}, "--time-scale"),
        ({"time_scale": float("inf")}, "--time-scale"),
        ({"region": "a/b c"}, "--region"),
        ({"images": "nowhere.toml"}, r"--images .*nowhere\.toml"),
        ({"objects": "minio:9000"}, "--objects"),
        ({"routers": -1}, "--routers"),
        ({"account_id": "12"}, "12 digits"),
        ({"database": "mysql://x"}, "postgresql://"),
        ({"auth": "basic"}, "sigv4 or none"),
        ({"no_such": 1}, "Unknown setting no_such"),
        ({"port": "many"}, "port"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(overrides: dict[str, object], needle: str) -> None:
    with pytest.raises(SettingsError, match=needle):
        load_settings(overrides, environment={})


def test_a_broken_file_is_named() -> None:
    Path("understudy.toml").write_text("port = ")
    with pytest.raises(SettingsError, match=r"understudy\.toml"):
        load_settings({}, environment={})
    with pytest.raises(SettingsError, match=r"missing\.toml"):
        load_settings({}, environment={}, config_file="missing.toml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_half_the_cores_route_but_at_least_one() -> None:
    assert Settings(routers=5).router_count == 5
    assert Settings().router_count >= 1


def test_a_file_that_is_no_text_or_not_there_is_refused() -> None:
    Path("latin.toml").write_bytes(b'region = "\xff"')
    with pytest.raises(SettingsError, match=r"latin\.toml"):
        load_settings({}, environment={}, config_file="latin.toml")
    with pytest.raises(SettingsError, match=r"gone\.toml"):
        load_settings({}, environment={"UNDERSTUDY_CONFIG": "gone.toml"})


def test_paths_are_those_of_the_caller_not_of_the_server_processes(tmp_path: Path) -> None:
    Path("images.toml").write_text("")
    given = {"images": "images.toml", "environments_dir": "envs", "file_roots": "a:b"}
    settings = load_settings(given, environment={})
    assert settings.images == str(tmp_path / "images.toml")
    assert settings.environments_dir == str(tmp_path / "envs")
    assert settings.file_roots == f"{tmp_path / 'a'}:{tmp_path / 'b'}"
