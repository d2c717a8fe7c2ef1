"""BentoML: one worker, text in and text out by a root input."""

import bentoml


@bentoml.service(
    workers=1, traffic={"timeout": 60, "max_concurrency": 1024}, logging={"access": {"enabled": False}}
)
class Churn:
    def __init__(self) -> None:
        from bench_model import answer

        self._answer = answer

    @bentoml.api(route="/predict")
    async def predict(self, row: str, /) -> str:
        return self._answer(row.encode()).decode()
