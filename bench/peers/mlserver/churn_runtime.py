"""MLServer: a runtime of the V2 protocol, JSON in and out, one prediction per (batched) request."""

import numpy
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Churn(MLModel):
    async def load(self) -> bool:
        from bench_model import BOOSTER

        self._booster = BOOSTER
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(numpy.float32, copy=False)
        scores = self._booster.inplace_predict(rows)
        output = NumpyCodec.encode_output("score", scores.reshape(-1, 1))
        return InferenceResponse(model_name=self.name, outputs=[output])
