"""Connections that do nothing, or next to nothing: ``python -m bench.loadgen.holders HOST PORT IDLE SLOW``.

Idle ones never send; slow ones send a byte of a request's head now and then and never finish.  Whatever the
server closes is opened again.  Prints ``ready`` when all are open; ends, printing JSON, when stdin does.
"""

from __future__ import annotations

import contextlib
import json
import resource
import select
import socket
import sys
import time

SLOW_BYTE_EVERY_S = 0.5
DRIP = b"POST /endpoints/one/invocations HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 4000


def main(argv: list[str]) -> int:
    """Hold until told to end."""
    host, port, idle, slow = argv[0], int(argv[1]), int(argv[2]), int(argv[3])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
    poll = select.epoll()
    held: dict[int, tuple[socket.socket, bool]] = {}
    sent: dict[int, int] = {}
    closed = {"idle": 0, "slow": 0}

    def hold(is_slow: bool) -> None:
        opened = socket.create_connection((host, port), 5.0)
        opened.setblocking(False)
        held[opened.fileno()] = (opened, is_slow)
        sent[opened.fileno()] = 0
        poll.register(opened.fileno(), select.EPOLLIN)

    for number in range(idle + slow):
        hold(number >= idle)
    poll.register(sys.stdin.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    next_drip_s = time.monotonic()
    while True:
        for fd, _ in poll.poll(0.1):
            if fd == sys.stdin.fileno():
                print(json.dumps({"closed_by_server": closed}), flush=True)
                return 0
            opened, is_slow = held[fd]
            with contextlib.suppress(OSError):
                if opened.recv(65536):
                    continue
            closed["slow" if is_slow else "idle"] += 1
            poll.unregister(fd)
            opened.close()
            del held[fd]
            hold(is_slow)
        if time.monotonic() >= next_drip_s:
            next_drip_s += SLOW_BYTE_EVERY_S
            for fd, (opened, is_slow) in list(held.items()):
                if is_slow:
                    with contextlib.suppress(OSError):  # closed meanwhile: polling tells
                        opened.send(DRIP[sent[fd] : sent[fd] + 1])
                        sent[fd] = min(sent[fd] + 1, len(DRIP) - 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
