"""Granian's own interface, RSGI, the fastest that it has for Python."""

from bench_model import answer

HEADERS = [("content-type", "text/csv")]


async def app(scope, protocol):
    protocol.response_bytes(200, HEADERS, answer(await protocol()))
