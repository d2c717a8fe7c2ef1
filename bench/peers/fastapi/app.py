"""FastAPI as its documentation writes a raw body in and a raw answer out; async, so no thread per call."""

from bench_model import answer
from fastapi import FastAPI, Request, Response

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.post("/invocations")
async def invocations(request: Request) -> Response:
    return Response(answer(await request.body()), media_type="text/csv")
