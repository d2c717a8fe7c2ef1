"""Ray Serve: one replica behind its HTTP proxy, raw body in, raw answer out."""

import os
import signal
import threading

import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response


@serve.deployment(num_replicas=1, max_ongoing_requests=1024, ray_actor_options={"num_cpus": 1})
class Churn:
    def __init__(self):
        from bench_model import answer

        self._answer = answer

    async def __call__(self, request: Request) -> Response:
        return Response(self._answer(await request.body()), media_type="text/csv")


if __name__ == "__main__":
    done = threading.Event()
    # Two: the proxy wants none, the replica one, and the controller must find room.
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(
        http_options={"host": "127.0.0.1", "port": int(os.environ["PORT"])},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )
    serve.run(Churn.bind(), name="churn", route_prefix="/")
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    done.wait()
    # An orderly shutdown takes Ray a quarter of a minute; whoever started this ends the whole tree.
    os._exit(0)
