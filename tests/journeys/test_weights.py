"""Ten variants with weights from 0 to a billion, thousands of requests; weights changed in use.

``make soak`` sends 100,000.
"""

from __future__ import annotations

import io
import os
import socket
import tarfile
import threading
import time
from collections import Counter
from math import exp, lgamma, log, log1p
from typing import Any

import pytest

pytestmark = [pytest.mark.journey, pytest.mark.timeout(300)]

REQUESTS = int(os.environ.get("UNDERSTUDY_REQUESTS", "8000"))
CONNECTIONS = 4
DEPTH = 100  # pipelined requests per write
WEIGHTS = {
    "none": 0.0,
    "nano": 1e-9,
    "milli": 1e-3,
    "one": 1.0,
    "dozen": 12.0,
    "million": 1e6,
    "ten-million": 1e7,
    "hundred-million": 1e8,
    "third": 1e9 / 3,
    "billion": 1e9,
}
ROLE = "arn:aws:iam::123456789012:role/understudy"
ECHO = """\
def model_fn(model_dir):
    return None
def transform_fn(model, body, content_type, accept):
    return body, "text/plain"
"""


def fits(hits: int, trials: int, share: float) -> bool:
    """Tell whether so many hits are likely for a share: exact two-sided binomial p > 1e-6."""
    if share in (0.0, 1.0):
        return hits == trials * share
    logs = [
        lgamma(trials + 1)
        - lgamma(k + 1)
        - lgamma(trials - k + 1)
        + k * log(share)
        + (trials - k) * log1p(-share)
        for k in range(trials + 1)
    ]
    return sum(exp(one) for one in logs if one <= logs[hits] + 1e-7) > 1e-6


def send(server: Any, endpoint: str, count: int, seen: Counter[str], wrong: list[str], number: int) -> None:
    """Send ``count`` different bodies down one connection, ``DEPTH`` at a time, and check each answer."""
    host, port = server.url.removeprefix("http://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as connection,
        connection.makefile("rb") as file,
    ):
        for start in range(0, count, DEPTH):
            bodies = [b"%d-%d" % (number, start + at) for at in range(min(DEPTH, count - start))]
            connection.sendall(
                b"".join(
                    b"POST /endpoints/%b/invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b"
                    % (endpoint.encode(), len(body), body)
                    for body in bodies
                )
            )
            for body in bodies:
                status, variant, answer = read(file)
                seen[variant] += 1
                if status != 200 or answer != body:
                    wrong.append(f"{body!r}: {status} {answer!r}")


def read(file: Any) -> tuple[int, str, bytes]:
    """Read one answer: status, variant, body."""
    status = int(file.readline().split()[1])
    variant, length = "", 0
    while (line := file.readline()) != b"\r\n":
        name, _, value = line.partition(b": ")
        if name == b"x-Amzn-Invoked-Production-Variant":
            variant = value.strip().decode()
        elif name == b"Content-Length":
            length = int(value)
    return status, variant, file.read(length)


def deploy(server: Any, endpoint: str, weights: dict[str, float]) -> None:
    """Make an endpoint whose variants all echo."""
    sagemaker, s3 = server.client("sagemaker"), server.client("s3")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(ECHO)
        tar.addfile(member, io.BytesIO(ECHO.encode()))
    s3.create_bucket(Bucket="weights")
    s3.put_object(Bucket="weights", Key="echo.tar.gz", Body=archive.getvalue())
    sagemaker.create_model(
        ModelName=endpoint,
        ExecutionRoleArn=ROLE,
        PrimaryContainer={"Image": "python:3", "ModelDataUrl": "s3://weights/echo.tar.gz"},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=endpoint,
        ProductionVariants=[
            {
                "VariantName": name,
                "ModelName": endpoint,
                "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large",
                "InitialVariantWeight": weight,
            }
            for name, weight in weights.items()
        ],
    )
    sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=endpoint)
    wait_until_in_service(sagemaker, endpoint)


def wait_until_in_service(sagemaker: Any, endpoint: str) -> None:
    deadline_s = time.monotonic() + 60.0
    while (found := sagemaker.describe_endpoint(EndpointName=endpoint))["EndpointStatus"] != "InService":
        assert found["EndpointStatus"] != "Failed" and time.monotonic() < deadline_s, found
        time.sleep(0.02)


def test_ten_variants_get_their_shares(open_server: Any) -> None:
    deploy(open_server, "ten", WEIGHTS)
    seen = [Counter[str]() for _ in range(CONNECTIONS)]
    wrong: list[str] = []
    share = REQUESTS // CONNECTIONS
    senders = [
        threading.Thread(target=send, args=(open_server, "ten", share, seen[at], wrong, at))
        for at in range(CONNECTIONS)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    total = sum(seen, Counter[str]())
    assert not wrong, wrong[:3]
    assert total.total() == REQUESTS
    assert total["none"] == 0
    weight_sum = sum(WEIGHTS.values())
    for name, weight in WEIGHTS.items():
        assert fits(total[name], REQUESTS, weight / weight_sum), (name, total)


def test_weights_change_under_load_on_every_router_at_once(open_server: Any) -> None:
    """Once the endpoint is InService again, no request on any connection goes by the old weights."""
    deploy(open_server, "shifting", {"left": 1.0, "right": 0.0})
    sagemaker = open_server.client("sagemaker")
    stopped = threading.Event()
    wrong: list[str] = []
    seen = Counter[str]()

    def load(number: int) -> None:
        while not stopped.is_set():
            send(open_server, "shifting", 200, seen, wrong, number)

    senders = [threading.Thread(target=load, args=(number,)) for number in range(2)]
    for sender in senders:
        sender.start()
    try:
        for round_ in range(10):
            wanted = ("right", "left")[round_ % 2]
            sagemaker.update_endpoint_weights_and_capacities(
                EndpointName="shifting",
                DesiredWeightsAndCapacities=[
                    {"VariantName": name, "DesiredWeight": float(name == wanted)}
                    for name in ("left", "right")
                ],
            )
            wait_until_in_service(sagemaker, "shifting")
            for probe in range(8):  # new connections: either router
                after = Counter[str]()
                send(open_server, "shifting", 20, after, wrong, 100 + probe)
                assert set(after) == {wanted}, (round_, after)
    finally:
        stopped.set()
        for sender in senders:
            sender.join()
    assert not wrong, wrong[:3]
    assert set(seen) == {"left", "right"}
