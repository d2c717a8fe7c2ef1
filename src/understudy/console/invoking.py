"""The invoke box: one request to an endpoint, sent as any client would send it, signed and over the wire.

Main type: :class:`Invoker`.  Refuses nothing itself: what the router says comes back as it is.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

TIMEOUT_S = 70.0  # SageMaker's own minute, and some
MAX_SHOWN_BYTES = 1 << 20
_FIELDS = {
    "content_type": "Content-Type",
    "accept": "Accept",
    "target_variant": "X-Amzn-SageMaker-Target-Variant",
    "inference_id": "X-Amzn-SageMaker-Inference-Id",
    "custom_attributes": "X-Amzn-SageMaker-Custom-Attributes",
}


class Invoker:
    """Sends requests to this server's own address.

    Args:
        endpoint_url: Where the routers listen.
        credentials: Secrets by access key id.
    """

    def __init__(self, endpoint_url: str, credentials: Callable[[], Mapping[str, str]], region: str) -> None:
        self._url = urlsplit(endpoint_url)
        self._credentials = credentials
        self._region = region

    def invoke(self, request: Mapping[str, str]) -> dict[str, Any]:
        """Send one request.

        Args:
            request: ``endpoint``, ``body`` and any of the fields that become headers.
        Returns:
            ``status``, ``headers``, ``text`` (what is not UTF-8 as escapes), ``took_ms`` as seen from here.
        Raises:
            OSError: nobody listens.
            http.client.HTTPException: the answer broke off.
            ValueError: a header can't be sent.
        """
        path = f"/endpoints/{quote(request['endpoint'], safe='')}/invocations"
        headers = {header: request[field] for field, header in _FIELDS.items() if request.get(field)}
        body = request.get("body", "").encode()
        signed = AWSRequest("POST", f"{self._url.geturl()}{path}", headers=headers, data=body)
        key_id, secret = next(iter(self._credentials().items()))
        SigV4Auth(Credentials(key_id, secret), "sagemaker", self._region).add_auth(signed)
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=TIMEOUT_S)
        started_ns = time.perf_counter_ns()
        try:
            encoded = {name: str(value).encode() for name, value in signed.headers.items()}
            connection.request("POST", path, body=body, headers=encoded)
            answer = connection.getresponse()
            data = answer.read()
            took_ms = (time.perf_counter_ns() - started_ns) / 1e6
        finally:
            connection.close()
        return {
            "status": answer.status,
            "headers": dict(answer.getheaders()),
            "text": data[:MAX_SHOWN_BYTES].decode("utf-8", "backslashreplace"),
            "bytes": len(data),
            "took_ms": round(took_ms, 3),
        }
