"""The client of the suite: the current `openai` package over a transport that records."""

import os
import sys
from pathlib import Path

import httpx2
import openai
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
import recorder
from recorder import record  # noqa: F401  (the fixture)

BASE = os.environ.get("OPENAI_BASE", "https://connect.chitty.cc/v1")


class Tee(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Passes a body on as it arrives and keeps a copy."""

    def __init__(self, inner, exchange):
        self.inner, self.exchange = inner, exchange

    def __iter__(self):
        try:
            for part in self.inner:
                self.exchange.body += part
                yield part
        except httpx2.HTTPError:
            self.exchange.ended = "broken"
            raise

    async def __aiter__(self):
        try:
            async for part in self.inner:
                self.exchange.body += part
                yield part
        except httpx2.HTTPError:
            self.exchange.ended = "broken"
            raise

    def close(self):
        self.inner.close()

    async def aclose(self):
        await self.inner.aclose()


def recorded(request, response):
    """The same response with a body that is recorded on its way. Identity encoding only: the copy is the raw body."""
    head = (request.method, request.url.path, response.status_code, response.headers.multi_items())
    response.stream = Tee(response.stream, recorder.current.begin(*head))
    return response


class Transport(httpx2.HTTPTransport):
    def handle_request(self, request):
        return recorded(request, super().handle_request(request))


class AsyncTransport(httpx2.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        return recorded(request, await super().handle_async_request(request))


def make_client(**more):
    """The one-line change of the playbook, without the SDK's own retries: a test sees every reply itself."""
    http = httpx2.Client(transport=Transport(), headers={"accept-encoding": "identity"}, timeout=60)
    options = {"base_url": BASE, "max_retries": 0, "http_client": http, **more}
    return openai.OpenAI(**options)


@pytest.fixture
def client():
    with make_client() as client:
        yield client


@pytest.fixture
def other_client():
    """Makes clients that differ from `client` in the given options."""
    made = []

    def make(**more):
        made.append(make_client(**more))
        return made[-1]

    yield make
    for client in made:
        client.close()


@pytest.fixture
def async_client():
    http = httpx2.AsyncClient(transport=AsyncTransport(), headers={"accept-encoding": "identity"}, timeout=60)
    return openai.AsyncOpenAI(base_url=BASE, max_retries=0, http_client=http)
