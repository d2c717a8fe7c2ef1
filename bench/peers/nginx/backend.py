"""What stands behind nginx: bare ASGI under uvicorn, the leanest that uvicorn serves."""

from bench_model import answer

HEADERS = [(b"content-type", b"text/csv")]


async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("http only")
    parts = []
    while True:
        message = await receive()
        parts.append(message["body"])
        if not message.get("more_body"):
            break
    body = answer(b"".join(parts))
    headers = [*HEADERS, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
