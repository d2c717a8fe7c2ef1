"""LitServe takes JSON, so the row comes as an array; the number that goes back is the same text."""

import os

import litserve
import numpy


class Churn(litserve.LitAPI):
    def setup(self, device):
        from bench_model import BOOSTER

        self.model = BOOSTER

    def decode_request(self, request):
        return numpy.array([request], dtype=numpy.float32)

    def predict(self, x):
        return self.model.inplace_predict(x)

    def encode_response(self, output):
        return float(output[0])


if __name__ == "__main__":
    server = litserve.LitServer(
        Churn(), accelerator="cpu", workers_per_device=1, fast_queue=os.environ["FAST_QUEUE"] == "1"
    )
    server.run(
        host="127.0.0.1", port=int(os.environ["PORT"]), log_level="error", access_log=False,
        generate_client_file=False,
    )  # fmt: skip
