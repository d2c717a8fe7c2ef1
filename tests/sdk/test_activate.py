"""``understudy.sdk.activate`` inside a process: a fresh one each time, as it changes the process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SRC = str(Path(__file__).parents[2] / "src")


def run(code: str, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SRC, **extra}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_clients_made_before_and_after_go_to_the_server(recorder: Any) -> None:
    code = f"""
import os, boto3
early = boto3.client("sts", region_name="us-west-2", aws_access_key_id="AKIAOLD", aws_secret_access_key="x")
s3 = boto3.client("s3", region_name="us-west-2", aws_access_key_id="AKIAOLD", aws_secret_access_key="x")
os.environ["AWS_PROFILE"] = "gone"
import understudy.sdk
server = understudy.sdk.activate({str(recorder.data_dir)!r})
understudy.sdk.activate({str(recorder.data_dir)!r})
assert server.endpoint_url == {recorder.url!r}
assert "AWS_PROFILE" not in os.environ
boto3.client("sts", endpoint_url="https://sts.us-west-2.amazonaws.com").get_caller_identity()
early.get_caller_identity()
s3.put_object(Bucket="bucket", Key="k", Body=b"x")
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    hosts = [headers["host"] for _, _, headers, _ in recorder.requests]
    assert hosts == [recorder.url.removeprefix("http://")] * 3
    assert recorder.requests[2][1] == "/bucket/k"


def test_children_of_an_activated_process_are_redirected(recorder: Any) -> None:
    code = f"""
import subprocess, sys, understudy.sdk
understudy.sdk.activate({str(recorder.data_dir)!r})
child = "import boto3; boto3.client('sts', endpoint_url='https://sts.amazonaws.com').get_caller_identity()"
subprocess.run([sys.executable, "-c", child], check=True)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert len(recorder.requests) == 1


def test_without_a_server_it_says_what_to_do(tmp_path: Path) -> None:
    done = run(f"import understudy.sdk; understudy.sdk.activate({str(tmp_path)!r})")
    assert done.returncode != 0
    assert f"No Understudy server runs on {tmp_path}. Start one with `understudy serve" in done.stderr
