"""The playbook's legacy line, `openai.api_base = ...`, over a requests session that records."""

import os
import sys
from pathlib import Path

import openai
import pytest
import requests

sys.path.insert(0, str(Path(__file__).parent.parent))
import recorder
from recorder import record  # noqa: F401  (the fixture)


class Session(requests.Session):
    """Keeps a copy of every body as it is read."""

    def send(self, request, **options):
        response = super().send(request, **options)
        path = requests.utils.urlparse(request.url).path
        exchange = recorder.current.begin(request.method, path, response.status_code, response.headers.items())
        if not options.get("stream"):
            exchange.body += response.content
            return response
        read = response.iter_content

        def tee(*args, **kwargs):
            for part in read(*args, **kwargs):
                exchange.body += part
                yield part

        response.iter_content = tee
        return response


@pytest.fixture(autouse=True)
def one_line_change():
    openai.api_base = os.environ.get("OPENAI_BASE", "https://connect.chitty.cc/v1")
    openai.api_key = os.environ["OPENAI_API_KEY"]
    with Session() as session:
        session.headers["accept-encoding"] = "identity"
        openai.requestssession = session
        yield
    openai.requestssession = None
