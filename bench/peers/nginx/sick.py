"""A mirror's target that is sick: ``sick.py KIND PORT``; the kinds are those of ``bench.sick_shadows``.

What crashes is started again a second later.
"""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time

CRASH = ("crashes-second", "crashes-copy", "memory")
MEGABYTES = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 6000000\r\n\r\n" + b"1" * 6_000_000
SHORT = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 1\r\n\r\n1"
SLOW_S = 0.002  # ten times what the benchmark's model and its server need
held = []


class Sick(asyncio.Protocol):
    """One connection; each request comes in one piece or two: the second finds nothing to do."""

    def __init__(self, kind):
        self.kind = kind
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if not data.startswith(b"POST"):
            return
        if self.kind == "resets":
            self.transport.abort()
        elif self.kind == "crashes-copy":
            os._exit(3)
        elif self.kind == "memory":
            try:
                held.append(bytearray(64 << 20))
            except MemoryError:
                os._exit(3)
            self.transport.write(SHORT)
        elif self.kind == "answers":
            self.transport.write(MEGABYTES)
        elif self.kind == "crashes-second":
            self.transport.write(SHORT)
        elif self.kind == "slow":
            until = time.thread_time() + SLOW_S
            while time.thread_time() < until:
                pass
            self.transport.write(SHORT)


async def serve(kind, port):
    """Serve until the end."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Sick(kind), "127.0.0.1", port)
    if kind == "crashes-second":
        loop.call_later(1.0, os._exit, 3)
    await server.serve_forever()


def main(kind, port):
    """Serve; what crashes does so in a process of its own."""
    if kind not in CRASH or os.environ.get("SICK_CHILD"):
        if kind == "memory":
            resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
        asyncio.run(serve(kind, port))
        return
    while True:
        child = subprocess.Popen([*sys.orig_argv], env={**os.environ, "SICK_CHILD": str(os.getpid())})
        try:
            child.wait()
        finally:
            child.kill()
        time.sleep(1.0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    main(sys.argv[1], int(sys.argv[2]))
