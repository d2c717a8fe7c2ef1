"""boto3 calls that remember how they are written, so that a reader can copy them.

Owns the clients of the demo.  Main class: :class:`Calls`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.pretty import pretty_repr

WIDTH = 100
PACE = {"Delay": 0.5, "MaxAttempts": 240}  # AWS's own waiters ask every 30 s
READS = ("runtime.", "cw.", "sm.describe")  # shown once each however often they are made
CLIENTS = {"s3": "s3", "sm": "sagemaker", "runtime": "sagemaker-runtime", "cw": "cloudwatch"}


class Calls:
    """Makes calls and keeps their code in order: every change, and each different read once.

    Args:
        client: Builds a boto3 client of a service.
    """

    def __init__(self, client: Callable[[str], Any]) -> None:
        self._clients = {name: client(service) for name, service in CLIENTS.items()}
        self._lines: list[str] = []

    def __call__(
        self, client: str, method: str, *, as_code: dict[str, str] | None = None, **parameters: Any
    ) -> Any:
        """Make one call.

        Args:
            client: ``s3``, ``sm``, ``runtime`` or ``cw``.
            method: e.g. ``create_model``.
            as_code: Parameters to write otherwise than by their value, e.g. ``{"Body": "row"}``.
            parameters: Of the call.
        """
        self._remember(f"{client}.{method}", as_code or {}, parameters)
        return getattr(self._clients[client], method)(**parameters)

    def wait(self, waiter: str, **parameters: Any) -> None:
        """Wait on one of boto3's SageMaker waiters."""
        parameters["WaiterConfig"] = PACE
        self._remember(f'sm.get_waiter("{waiter}").wait', {}, parameters)
        self._clients["sm"].get_waiter(waiter).wait(**parameters)

    def code(self, row: str) -> str:
        """Give everything done as a script, ``row`` being an example of what was sent."""
        head = ["from datetime import datetime, timedelta, timezone", "", "import boto3", ""]
        head += [f'{name} = boto3.client("{service}")' for name, service in CLIENTS.items()]
        return "\n".join([*head, "", f'row = "{row}"', "", *self._lines])

    def _remember(self, function: str, as_code: dict[str, str], parameters: dict[str, Any]) -> None:
        values = {
            name: as_code.get(name) or pretty_repr(value, max_width=WIDTH - 8)
            for name, value in parameters.items()
        }
        line = f"{function}({', '.join(f'{name}={value}' for name, value in values.items())})"
        if len(line) > WIDTH or "\n" in line:
            inner = "".join(
                f"    {name}={value.replace(chr(10), chr(10) + '    ')},\n" for name, value in values.items()
            )
            line = f"{function}(\n{inner})"
        if not (line in self._lines and function.startswith(READS)):
            self._lines.append(line)
