"""A recording HTTP server that answers STS, IAM, SageMaker and S3 just enough, and its data directory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

STS = """<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
<Arn>arn:aws:sts::123456789012:assumed-role/understudy/session</Arn><UserId>AROA:session</UserId>
<Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId>
</ResponseMetadata></GetCallerIdentityResponse>"""
IAM = """<GetRoleResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><GetRoleResult><Role><Path>/</Path>
<RoleName>understudy</RoleName><RoleId>AROAAAAAAAAAAAAAAAAA</RoleId><CreateDate>2026-01-01T00:00:00Z</CreateDate>
<Arn>arn:aws:iam::123456789012:role/understudy</Arn></Role></GetRoleResult><ResponseMetadata><RequestId>r</RequestId>
</ResponseMetadata></GetRoleResponse>"""


@dataclass
class Recorder:
    """What arrived: (method, path, headers, body) in order."""

    url: str
    data_dir: Path
    requests: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    requests: list[tuple[str, str, dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            requests.append((self.command, self.path, headers, body))
            content_type, answer = "text/xml", b""
            if b"Action=GetCallerIdentity" in body:
                answer = STS.encode()
            elif b"Action=GetRole" in body:
                answer = IAM.encode()
            elif "x-amz-target" in headers:
                content_type, answer = "application/x-amz-json-1.1", b'{"Endpoints": []}'
            elif self.path == "/understudy/v1/status":
                content_type, answer = "application/json", json.dumps(STATUS).encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_HEAD = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    data_dir = tmp_path / "da ta"
    (data_dir / "run").mkdir(parents=True)
    facts = {"pid": os.getpid(), "endpoint_url": url, "started_at_s": 0.0, "routers": 1}
    (data_dir / "run" / "server.json").write_text(json.dumps(facts))
    (data_dir / "credentials.json").write_text(
        json.dumps(
            {
                "access_key_id": "AKIAUNDERSTUDY000000",
                "secret_access_key": "sec'ret $x",
                "region": "us-east-1",
                "account_id": "123456789012",
            }
        )
    )
    yield Recorder(url, data_dir, requests)
    server.shutdown()
    thread.join()
    server.server_close()


STATUS = {
    "processes": [{"role": "router", "pid": 7, "name": "understudy router 0"}],
    "endpoints": [
        {
            "name": "churn",
            "status": "InService",
            "config_name": "c",
            "variants": [
                {
                    "name": "Variant1",
                    "weight": 0.0,
                    "share": 0.0,
                    "instances": 1,
                    "desired_instances": 2,
                    "images": ["xgboost:0.90-1"],
                }
            ],
        }
    ],
}
