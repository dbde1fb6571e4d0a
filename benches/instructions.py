#!/usr/bin/env python3
"""Counts the instructions that the gateway takes for a request, and compares them with a baseline.

    benches/instructions.py              fails where a count has risen, or fallen, by more than 3 % (scripts/test.sh runs this)
    benches/instructions.py --baseline   writes the counts of this build to benches/instructions.json
    benches/instructions.py --binary F   measures this `can` instead of building one with the profile quick-release
    benches/instructions.py --only NAME  measures one case

The real binary runs under valgrind's callgrind with every feature on: a token, limits, three budgets, ledger, cache, metrics
and access log. Counted is what a worker does for a connection between its two sockets, in user space; what other threads do
for it (ledger, access log, timers) is not. A client that sends one request after the other, and a provider that waits for
the client before it sends its next event, make the same work in each run.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "benches" / "instructions.json"

# A rise or a fall by more than this part of the baseline is told.
TOLERANCE = 0.03

# Requests before the count begins (caches and pools are warm then), and while it runs.
WARM, COUNTED = 60, 200

# The function whose instructions count, with all that it calls.
COUNTED_FUNCTION = "<chittycan::server::front::ClientApi as chittycan::server::listen::Api>::serve::{{closure}}*"

# Some processors have an instruction that copies any number of bytes, which valgrind counts once a byte: without it copies cost
# the same on all of them.
PLAIN_COPIES = "glibc.cpu.hwcaps=-ERMS,-FSRM"

EVENTS = 20

TEXT = "the quick brown fox jumps over the lazy dog and " * 8
USAGE = {"prompt_tokens": 200, "completion_tokens": 90, "total_tokens": 290}
COMPLETION = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None, "annotations": []},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE
    | {
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
    "system_fingerprint": "fp_44added55e",
}
MESSAGE = {
    "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5",
    "content": [{"type": "text", "text": TEXT}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 200, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 90},
}


def compact(value):
    return json.dumps(value, separators=(",", ":")).encode()


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def openai_events(usage):
    """The pieces of a stream in OpenAI's grammar."""

    def event(choices, more):
        head = {k: COMPLETION[k] for k in ("id", "created", "model", "service_tier", "system_fingerprint")}
        return b"data: " + compact(head | {"object": "chat.completion.chunk", "choices": choices} | more) + b"\n\n"

    def choice(delta, finish=None):
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]

    none = {"usage": None} if usage else {}
    yield event(choice({"role": "assistant", "content": "", "refusal": None}), none)
    for number in range(EVENTS):
        yield event(choice({"content": f" word{number}"}), none)
    end = event(choice({}, "stop"), none)
    yield end + (event([], {"usage": USAGE}) if usage else b"") + b"data: [DONE]\n\n"


def anthropic_events():
    """The pieces of a stream in Anthropic's grammar."""

    def event(kind, **more):
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), compact({"type": kind} | more))

    message = MESSAGE | {"content": [], "stop_reason": None, "usage": {"input_tokens": 200, "output_tokens": 1}}
    start = event("message_start", message=message)
    yield start + event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for number in range(EVENTS):
        yield event("content_block_delta", index=0, delta={"type": "text_delta", "text": f" word{number}"})
    ended = {"stop_reason": "end_turn", "stop_sequence": None}
    end = event("message_delta", delta=ended, usage={"output_tokens": 90})
    yield event("content_block_stop", index=0) + end + event("message_stop")


class Provider:
    """Answers in both grammars. A stream's next piece is sent once the client has the one before."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.read = threading.Semaphore(0)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        reader = connection.makefile("rb")
        while line := reader.readline():
            length = 0
            while (header := reader.readline()) not in (b"\r\n", b""):
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            body = reader.read(length)
            is_messages = b"/messages" in line
            if b'"stream":true' not in body:
                reply = compact(MESSAGE if is_messages else COMPLETION)
                head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0123456789\r\n"
                head += "openai-processing-ms: 350\r\nx-ratelimit-remaining-requests: 9999\r\n"
                connection.sendall(f"{head}content-length: {len(reply)}\r\n\r\n".encode() + reply)
                continue
            pieces = anthropic_events() if is_messages else openai_events(b"include_usage" in body)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            for number, piece in enumerate(pieces):
                if number:
                    self.read.acquire()
                connection.sendall((b"" if number else head) + chunk(piece))
            self.read.acquire()
            connection.sendall(b"0\r\n\r\n")


class Gateway:
    """`can serve` under callgrind, with a token."""

    def __init__(self, binary, provider, folder):
        self.port, self.admin, self.folder = free_port(), free_port(), Path(folder)
        config = self.folder / "can.yaml"
        config.write_text(
            f"""
listen: [{{address: "127.0.0.1:{self.port}"}}]
admin: {{address: "127.0.0.1:{self.admin}"}}
server: {{threads: 1}}
log: {{level: warn}}
providers:
  openai: {{preset: openai, base_url: "http://{provider}/v1", api_key: sk-a, credentials: mapped}}
  anthropic: {{base_url: "http://{provider}/v1", api_key: sk-ant-a, credentials: mapped}}
tenants:
  company: {{budgets: [{{usd: 1000000000}}, {{usd: 100000000, period: daily}}]}}
  team:
    parent: company
    limits: {{requests_per_second: 1000000000, requests_per_minute: 1000000000, tokens_per_minute: 1000000000000,
      usd_per_minute: 1000000, concurrent_requests: 100000}}
    budgets: [{{usd: 100000000}}]
"""
        )
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "GLIBC_TUNABLES": PLAIN_COPIES}
        create = [binary, "auth", "token", "create", "--tenant", "team", "--config", config]
        made = subprocess.run(create, cwd=folder, env=environment, capture_output=True, text=True, check=True)
        self.token = made.stdout.strip()
        command = ["valgrind", "--tool=callgrind", "--collect-atstart=no", f"--toggle-collect={COUNTED_FUNCTION}"]
        command += [f"--callgrind-out-file={folder}/counts", binary, "serve", "--config", config]
        self.log = open(self.folder / "log", "w+")
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=self.log, stderr=self.log)
        self.wait_until_ready()

    def wait_until_ready(self):
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                admin = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=5)
                admin.request("GET", "/readyz")
                if admin.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
        self.fail("the gateway did not become ready under valgrind")

    def fail(self, why):
        self.log.seek(0)
        sys.exit(f"error: {why}:\n{self.log.read()[-2000:]}")

    def control(self, what):
        done = subprocess.run(["callgrind_control", what, str(self.process.pid)], capture_output=True, text=True)
        if done.returncode or "Error" in done.stdout + done.stderr:
            self.fail(f"callgrind_control {what} failed: {done.stdout}{done.stderr}")

    def count(self):
        """The instructions since the last `--zero`."""
        self.control("--dump")
        dumps = sorted(self.folder.glob("counts.*"), key=lambda path: path.stat().st_mtime_ns)
        totals = re.findall(r"^(?:totals|summary): (\d+)", dumps[-1].read_text(), re.MULTILINE) if dumps else []
        if not totals or int(totals[0]) == 0:
            self.fail(f"callgrind counted nothing: is {COUNTED_FUNCTION} still the function that serves a connection?")
        return int(totals[0])

    def end(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Client:
    """Sends the same request over and over on one connection, and checks that it is answered well."""

    def __init__(self, gateway, provider, body, cache):
        self.provider, self.cache = provider, cache
        self.connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=60)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.connection.makefile("rb")
        body = compact(body)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {gateway.token}\r\n"
        head += "content-type: application/json\r\naccept: application/json\r\nuser-agent: instructions\r\n"
        self.request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def ask(self):
        self.provider.read = threading.Semaphore(0)
        self.connection.sendall(self.request)
        head = [self.reader.readline()]
        while head[-1] not in (b"\r\n", b""):
            head.append(self.reader.readline())
        text = b"".join(head).lower()
        length = re.search(rb"content-length: (\d+)", text)
        body = self.reader.read(int(length[1])) if length else self.read_chunks()
        if b" 200 " not in head[0] or b"x-chittycan-cache: " + self.cache not in text or b'"choices"' not in body:
            sys.exit(f"error: an unexpected answer:\n{text.decode()}{body.decode()[:500]}")

    def read_chunks(self):
        body = b""
        while size := int(self.reader.readline(), 16):
            body += self.reader.read(size)
            self.reader.readline()
            self.provider.read.release()
        self.reader.readline()
        return body


def measure(binary, body, cache):
    """The instructions for one request."""
    provider = Provider()
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(binary, provider.address, folder)
        try:
            client = Client(gateway, provider, body, cache)
            if cache == b"hit":
                client.cache = b"miss"
                client.ask()
                client.cache = cache
            for _ in range(WARM):
                client.ask()
            gateway.control("--zero")
            for _ in range(COUNTED):
                client.ask()
            return gateway.count() // COUNTED
        finally:
            gateway.end()


def chat(model, **more):
    text = ("the quick brown fox " * 50)[:880]
    return {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 256} | more


CASES = {
    "JSON": (chat("gpt-4o-mini"), b"bypass"),
    "JSON from the cache": (chat("gpt-4o-mini", temperature=0), b"hit"),
    f"stream of {EVENTS} events": (chat("gpt-4o-mini", stream=True), b"bypass"),
    "JSON, translated to Anthropic": (chat("claude-sonnet-4-5"), b"bypass"),
    f"stream of {EVENTS} events, translated to Anthropic": (chat("claude-sonnet-4-5", stream=True), b"bypass"),
}


def build():
    command = ["cargo", "build", "--locked", "--profile", "quick-release", "--bin", "can"]
    subprocess.run(command, cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    return Path(target) / "quick-release" / "can"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", action="store_true")
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--only", choices=CASES)
    args = parser.parse_args()
    if not shutil.which("valgrind"):
        sys.exit("error: valgrind is missing. Install it: apt-get install valgrind")
    binary = (args.binary or build()).resolve()
    compiler = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    before = json.loads(BASELINE.read_text()) if BASELINE.exists() else {"rustc": compiler, "instructions": {}}
    counts, faults = {}, []
    for name, (body, cache) in CASES.items():
        if args.only not in (None, name):
            continue
        counts[name] = count = measure(binary, body, cache)
        known = before["instructions"].get(name)
        change = (count - known) / known if known else 0
        told = "new" if known is None else f"{change:+.1%}"
        print(f"{count:>9,}  {told:>6}  {name}", flush=True)
        if known is None or abs(change) > TOLERANCE:
            faults.append(f"{name}: {known} -> {count} instructions a request ({told})")
    if args.baseline:
        kept = before["instructions"] | counts
        BASELINE.write_text(json.dumps({"rustc": compiler, "instructions": kept}, indent=2) + "\n")
    elif faults:
        if compiler != before["rustc"]:
            faults.append(f"The baseline was made with rustc {before['rustc']}, this build with {compiler}.")
        faults.append("A rise has to be mended; a fall, or a rise that is wanted, gets a baseline of its own:")
        sys.exit("error: " + "\n  ".join(faults) + "\n    benches/instructions.py --baseline")


if __name__ == "__main__":
    main()
