"""Under ``understudy exec`` every AWS call of any Python below goes to the server, and none elsewhere."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from understudy.sdk.environment import HOOK_DIR, exec_environment
from understudy.sdk.servers import read_server


def run(recorder: Any, code: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh Python with the environment that ``understudy exec`` makes."""
    present = {**os.environ, **extra}
    environment = exec_environment(read_server(recorder.data_dir), present)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        cwd=recorder.data_dir,
        capture_output=True,
        text=True,
        timeout=60,
    )


def scope(headers: dict[str, str]) -> str:
    return headers["authorization"].split("Credential=")[1].split(",")[0]


def test_hard_coded_hosts_regions_profiles_and_keys_are_replaced(recorder: Any, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[profile prod]\naws_access_key_id=AKIAREAL\naws_secret_access_key=real\nregion=eu-west-1\n"
    )
    code = """
import boto3
from botocore.config import Config
url = "https://sts.us-west-2.amazonaws.com"
print(boto3.client("sts", region_name="us-west-2", endpoint_url=url).get_caller_identity()["Account"])
boto3.Session(profile_name="prod").client("sts").get_caller_identity()
own = {"aws_access_key_id": "AKIAREAL", "aws_secret_access_key": "x", "aws_session_token": "t"}
boto3.client("sts", **own).get_caller_identity()
boto3.client("sagemaker", config=Config(use_fips_endpoint=True)).list_endpoints()
"""
    done = run(recorder, code, AWS_CONFIG_FILE=str(config))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "123456789012\n"
    assert [scope(headers).split("/")[0] for _, _, headers, _ in recorder.requests] == [
        "AKIAUNDERSTUDY000000"
    ] * 4
    assert {scope(headers).split("/")[2] for _, _, headers, _ in recorder.requests} == {"us-east-1"}
    assert all("x-amz-security-token" not in headers for _, _, headers, _ in recorder.requests)


def test_s3_is_path_style_whatever_was_asked(recorder: Any) -> None:
    code = """
import boto3
from botocore.config import Config
for asked in ({}, {"addressing_style": "virtual"}, {"use_accelerate_endpoint": True}):
    config = Config(s3=asked) if asked else None
    boto3.client("s3", config=config).put_object(Bucket="my.bucket", Key="a/b", Body=b"x")
boto3.resource("s3", endpoint_url="https://s3.eu-west-1.amazonaws.com").Object("bucket", "k").put(Body=b"y")
print(boto3.client("s3").generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "k"}))
"""
    done = run(recorder, code)
    assert done.returncode == 0, done.stderr
    assert [path for _, path, _, _ in recorder.requests] == ["/my.bucket/a/b"] * 3 + ["/bucket/k"]
    assert done.stdout.startswith(recorder.url + "/bucket/k?")


def test_another_server_that_is_not_aws_is_left_alone(recorder: Any) -> None:
    code = f"""
import boto3
own = {{"aws_access_key_id": "minio", "aws_secret_access_key": "m"}}
client = boto3.client("s3", endpoint_url="http://localhost:1", **own)
print(client.meta.endpoint_url)
assert client._request_signer._credentials.access_key == "minio"
assert boto3.client("sts", endpoint_url={recorder.url!r} + "/").meta.endpoint_url == {recorder.url!r}
"""
    done = run(recorder, code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "http://localhost:1\n"


@pytest.mark.parametrize(
    "code",
    [
        "import requests; requests.get('https://sm-pysdk-t-us-east-1.s3.us-east-1.amazonaws.com/telemetry?x=1')",
        "import urllib.request; urllib.request.urlopen('http://bucket.s3.amazonaws.com/key')",
        "import socket; socket.create_connection(('sts.amazonaws.com', 443))",
        "import urllib3; urllib3.PoolManager(retries=False).request('GET', 'https://sts.amazonaws.com.cn')",
        "import requests; requests.get('https://b.s3.amazonaws.com/k', proxies={'https': 'http://127.0.0.1:%d'})",
        "import requests; requests.get('http://b.s3.amazonaws.com/k', proxies={'http': 'http://127.0.0.1:%d'})",
    ],
)
def test_whatever_else_looks_up_aws_is_refused_with_the_reason(recorder: Any, code: str) -> None:
    port = recorder.url.rpartition(":")[2]
    done = run(recorder, code.replace("%d", port))
    assert done.returncode != 0
    assert "keeps AWS calls on this machine" in done.stderr
    assert recorder.requests == []  # not even the proxy was asked


def test_a_proxy_of_the_user_does_not_get_the_calls(recorder: Any) -> None:
    proxies = {
        "HTTP_PROXY": "http://127.0.0.1:1",
        "HTTPS_PROXY": "http://127.0.0.1:1",
        "no_proxy": "a.example",
    }
    code = """
import os, boto3
from botocore.config import Config
boto3.client("sts").get_caller_identity()
boto3.client("sts", config=Config(proxies={"http": "http://127.0.0.1:1"})).get_caller_identity()
print(os.environ["NO_PROXY"])
"""
    done = run(recorder, code, **proxies)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a.example,127.0.0.1\n"
    assert len(recorder.requests) == 2


def test_the_users_own_sitecustomize_still_runs_and_the_folder_leaves_the_path(
    recorder: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.own_ran = True\nNAME = 'own'\n")
    code = f"""
import sys, sitecustomize
assert sys.own_ran and sitecustomize.NAME == "own", sitecustomize
assert {str(HOOK_DIR)!r} not in sys.path
import boto3
boto3.client("sts").get_caller_identity()
"""
    done = run(recorder, code, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert len(recorder.requests) == 1


def test_grandchildren_and_the_aws_cli_are_redirected(recorder: Any) -> None:
    aws = Path(sys.executable).with_name("aws")
    child = (
        "import boto3; boto3.client('sts', endpoint_url='https://sts.amazonaws.com').get_caller_identity()"
    )
    command = [
        str(aws),
        "sts",
        "get-caller-identity",
        "--endpoint-url",
        "https://sts.eu-west-1.amazonaws.com",
    ]
    code = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {child!r}], check=True)
subprocess.run({command!r}, check=True)
"""
    done = run(recorder, code)
    assert done.returncode == 0, done.stderr
    assert "assumed-role/understudy" in done.stdout
    assert len(recorder.requests) == 2


def test_loaders_are_left_as_they_were(recorder: Any) -> None:
    code = """
import inspect, importlib.resources, botocore.session, botocore.endpoint, http.client, socket
assert "exec_module" not in vars(botocore.session.__loader__)
assert "def create_client" in inspect.getsource(botocore.session)
assert importlib.resources.files(botocore).joinpath("cacert.pem").is_file()
assert socket.getaddrinfo("127.0.0.1", 1)
"""
    done = run(recorder, code)
    assert done.returncode == 0, done.stderr


def test_the_hook_is_python_3_9_and_stdlib_only() -> None:
    for name in ("sitecustomize.py", "understudy_redirect.py"):
        tree = ast.parse((HOOK_DIR / name).read_text(), feature_version=(3, 9))
        for node in ast.walk(tree):
            modules = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert all(module.partition(".")[0] in sys.stdlib_module_names for module in modules), modules
