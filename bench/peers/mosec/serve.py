"""mosec, with and without dynamic batching: ``serve.py --address 127.0.0.1 --port N`` (mosec's own options).

BATCH 1 is mosec's default; above it, requests gather for WAIT_MS milliseconds at most.
"""

import os

from bench_model import answer, answers
from mosec import Server, Worker

BATCH, WAIT_MS = int(os.environ["BATCH"]), int(os.environ["WAIT_MS"])


class Raw(Worker):
    """Bytes in, bytes out."""

    resp_mime_type = "text/csv"

    def deserialize(self, data):
        return bytes(data)

    def serialize(self, data):
        return data


class One(Raw):
    def forward(self, data):
        return answer(data)


class Many(Raw):
    def forward(self, data):
        return answers(data)


if __name__ == "__main__":
    server = Server()
    if BATCH > 1:
        server.append_worker(Many, num=1, max_batch_size=BATCH, max_wait_time=WAIT_MS)
    else:
        server.append_worker(One, num=1)
    server.run()
