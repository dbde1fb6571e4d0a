"""Records what each test received, for the comparison of two runs (transcript.py reads it).

Both Python suites use it as a pytest plugin. One line of JSON per test is appended to the file named by TRANSCRIPT;
without that variable nothing is recorded. The format is that of node/support/record.ts.
"""

import base64
import json
import os
import re

import pytest

KEPT = re.compile(r"^(content-type|openai-.*|x-ratelimit-.*|retry-after.*|x-should-retry|x-request-id)$")


class Record:
    """The transcript of one test."""

    def __init__(self):
        self.mode = "wire"
        self.exchanges = []
        self.notes = {}

    def note(self, name, value):
        """Adds what the SDK made of the reply."""
        self.notes[name] = value

    def compare_only(self, mode, because):
        """How much of the wire is compared: `notes` (status, content type and the notes) or `none`; and why."""
        assert mode in ("notes", "none") and because
        self.mode = mode

    def begin(self, method, path, status, headers):
        """Adds an exchange whose body is still to come; the caller appends the bytes to its `body`."""
        exchange = Exchange(method, path, status, headers)
        self.exchanges.append(exchange)
        return exchange


class Exchange:
    """One reply: its head, and its body as far as it has arrived."""

    def __init__(self, method, path, status, headers):
        kept = {name.lower(): value for name, value in headers if KEPT.match(name.lower())}
        self.head = {"method": method, "path": path, "status": status, "headers": kept}
        self.body = bytearray()
        self.ended = "complete"

    def json(self):
        try:
            shown = {"text": self.body.decode()}
        except UnicodeDecodeError:
            shown = {"base64": base64.b64encode(self.body).decode()}
        return {**self.head, "ended": self.ended, **shown}


# The record of the running test; the recording transports write here.
current = Record()


@pytest.fixture(autouse=True)
def record(request):
    """A fresh record per test, written when the test is over."""
    global current
    current = Record()
    yield current
    file = os.environ.get("TRANSCRIPT")
    if file and current.mode != "none":
        case = f"{request.node.path.stem}: {request.node.name}"
        exchanges = [exchange.json() for exchange in current.exchanges]
        line = {"case": case, "mode": current.mode, "exchanges": exchanges, "notes": current.notes}
        with open(file, "a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
