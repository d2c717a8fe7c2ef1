"""The client commands as a shell runs them, against a recording server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from understudy.cli import COMMANDS, main
from understudy.cli.logs import parse_duration_s

UNDERSTUDY = [sys.executable, "-m", "understudy.cli"]


def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [*UNDERSTUDY, *arguments], env={**environment, **extra}, capture_output=True, text=True, timeout=60
    )


def test_env_is_read_by_a_shell_as_it_was_written(recorder: Any) -> None:
    done = run("env", "--data-dir", str(recorder.data_dir))
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("export ") for line in done.stdout.splitlines())
    script = done.stdout + "\nenv -0"
    seen = subprocess.run(
        ["sh", "-c", script], capture_output=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    variables = dict(entry.split("=", 1) for entry in seen.stdout.decode().split("\0") if entry)
    assert variables["AWS_ENDPOINT_URL"] == recorder.url
    assert variables["AWS_ACCESS_KEY_ID"] == "AKIAUNDERSTUDY000000"
    assert variables["AWS_SECRET_ACCESS_KEY"] == "sec'ret $x"
    assert variables["AWS_DEFAULT_REGION"] == variables["AWS_REGION"] == "us-east-1"
    assert variables["AWS_EC2_METADATA_DISABLED"] == "true"
    assert variables["UNDERSTUDY_DATA_DIR"] == str(recorder.data_dir)


def test_env_unsets_what_would_win_over_it(recorder: Any) -> None:
    own = {"AWS_PROFILE": "prod", "AWS_SESSION_TOKEN": "t", "AWS_ENDPOINT_URL_S3": "http://minio"}
    done = run("env", "--data-dir", str(recorder.data_dir), **own)
    assert done.stdout.splitlines()[0] == "unset AWS_ENDPOINT_URL_S3 AWS_PROFILE AWS_SESSION_TOKEN"


def test_env_as_json_and_dotenv(recorder: Any) -> None:
    variables = json.loads(run("env", "--data-dir", str(recorder.data_dir), "--format", "json").stdout)
    lines = run("env", "--data-dir", str(recorder.data_dir), "--format", "dotenv").stdout.splitlines()
    assert {
        name: shlex.split(value)[0] for name, value in (line.split("=", 1) for line in lines)
    } == variables
    assert variables["AWS_SECRET_ACCESS_KEY"] == "sec'ret $x"


def test_commands_find_the_server_in_the_environment_that_env_prints(recorder: Any) -> None:
    variables = json.loads(run("env", "--data-dir", str(recorder.data_dir), "--format", "json").stdout)
    assert json.loads(run("status", "--json", **variables).stdout)["endpoints"][0]["name"] == "churn"
    elsewhere = {**variables, "UNDERSTUDY_DATA_DIR": "/nowhere/at/all"}  # as on another machine
    assert run("status", "--json", **elsewhere).returncode == 0


@pytest.mark.parametrize("command", [["env"], ["status"], ["logs", "churn"], ["exec", "--", "true"]])
def test_without_a_server_every_command_says_what_to_do(tmp_path: Path, command: list[str]) -> None:
    done = run(command[0], "--data-dir", str(tmp_path), *command[1:])
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"No Understudy server runs on {tmp_path}. Start one with `understudy serve" in done.stderr


def test_a_dead_servers_leftovers_are_no_server(recorder: Any) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = recorder.data_dir / "run" / "server.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": ended.pid}))
    assert "No Understudy server runs" in run("env", "--data-dir", str(recorder.data_dir)).stderr


def test_status_is_signed_and_shown(recorder: Any) -> None:
    done = run("status", "--data-dir", str(recorder.data_dir))
    assert done.returncode == 0, done.stderr
    assert "understudy router 0" in done.stdout
    row = next(line for line in done.stdout.splitlines() if "Variant1" in line)
    assert row.split() == ["churn", "InService", "Variant1", "0", "0.0%", "1/2", "xgboost:0.90-1"]
    _, path, headers, _ = recorder.requests[-1]
    assert path == "/understudy/v1/status"
    assert "/us-east-1/sagemaker/aws4_request" in headers["authorization"]


def test_status_of_a_server_that_hangs_up_is_an_error(recorder: Any) -> None:
    path = recorder.data_dir / "run" / "server.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "endpoint_url": "http://127.0.0.1:1"}))
    done = run("status", "--data-dir", str(recorder.data_dir))
    assert done.returncode == 1
    assert "does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_exec_passes_arguments_output_and_exit_code_on(recorder: Any) -> None:
    code = "import sys, os; print(sys.argv[1:], os.environ['AWS_ENDPOINT_URL']); sys.exit(7)"
    options = ["--data-dir", "x", "--help", "-f"]
    done = run("exec", "--data-dir", str(recorder.data_dir), "--", sys.executable, "-c", code, *options)
    assert done.returncode == 7
    assert done.stdout == f"{options} {recorder.url}\n"


def test_exec_becomes_the_command_so_that_signals_reach_it(recorder: Any) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    arguments = ["exec", "--data-dir", str(recorder.data_dir), "--", sys.executable, "-c", code]
    process = subprocess.Popen([*UNDERSTUDY, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert int(process.stdout.readline()) == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == -signal.SIGTERM


def test_exec_of_a_missing_command_exits_as_a_shell_does(recorder: Any) -> None:
    done = run("exec", "--data-dir", str(recorder.data_dir), "--", "no-such-command-here")
    assert done.returncode == 127
    assert "no-such-command-here: command not found" in done.stderr


def test_help_imports_no_heavy_module_and_lists_every_command() -> None:
    code = (
        "import sys, time; from understudy.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'boto3', 'botocore', 'rich', 'sklearn', 'numpy', 'sqlalchemy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_examples(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Examples:" in result.output
    assert f"understudy {name}" in result.output


def test_a_wrong_duration_is_a_usage_error(recorder: Any) -> None:
    done = run("logs", "churn", "--since", "soon", "--data-dir", str(recorder.data_dir))
    assert done.returncode == 2
    assert "write 30s, 10m, 2h or 1d" in done.stderr


def test_durations() -> None:
    assert [parse_duration_s(text) for text in ("0s", "30s", "10m", "2h", "1d")] == [0, 30, 600, 7200, 86400]


def test_the_servers_clock_runs_at_its_scale(recorder: Any) -> None:
    from understudy.sdk.servers import read_server

    path = recorder.data_dir / "run" / "server.json"
    anchor_s = time.time() - 100.0
    facts = {**json.loads(path.read_text()), "time_anchor_s": anchor_s, "settings": {"time_scale": 60.0}}
    path.write_text(json.dumps(facts))
    assert read_server(recorder.data_dir).now_s() >= anchor_s + 6000.0
