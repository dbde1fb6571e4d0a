#!/usr/bin/env python3
"""Runs the official SDKs of OpenAI and Anthropic against the gateway and straight at the provider behind it, and compares.

    python3 tests/sdk/run.py                     all suites, over target/debug/can (CAN_BIN names another binary)
    python3 tests/sdk/run.py python legacy       some of: node, python, legacy, cost, dialects-python, dialects-node
    python3 tests/sdk/run.py --gateway URL --provider URL
                                                 against servers that run already (URLs end in /v1)

It starts `can simulate` (the provider) and `can serve --simulate` (the gateway over such a provider) on free ports, runs
each suite through both with a bound on its time, compares the transcripts and ends its servers, also on a failure. The
suites of dialects run once: they ask the gateway in one dialect, the provider in another, and compare by themselves.
Exit code 0: every test passed, the transcripts are equal, no secret is in the gateway's log and it stopped cleanly.
scripts/setup.sh test installs what the suites need.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request
import xml.etree.ElementTree
from pathlib import Path

import test_transcript
import transcript

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / ".cache" / "sdk"

SUITES = ("node", "python", "legacy", "cost", "dialects-python", "dialects-node")
# Those whose two transcripts are compared.
COMPARED = ("node", "python", "legacy")
SUITE_SECONDS = 300
READY_SECONDS = 20
STOP_SECONDS = 20
SHOWN_LINES = 60


class Failure(Exception):
    """What the person at the terminal reads instead of a traceback."""


def main():
    args = arguments()
    suites = [name for name in SUITES if name in (args.suite or SUITES)]
    preflight(suites)
    shutil.rmtree(WORK / "run", ignore_errors=True)
    (WORK / "run").mkdir(parents=True)
    # A key of this run alone, so that finding it in a log means a leak.
    key = f"sk-parity-{secrets.token_hex(12)}"
    rows, faults = [], []
    with contextlib.ExitStack() as servers:
        gateway, provider = args.gateway, args.provider
        if not gateway:
            can = binary()
            provider_server = servers.enter_context(Server("provider", [can, "simulate", "--listen", "127.0.0.1:0"], {}))
            provider = provider_server.announced() + "/v1"
            gateway_server = servers.enter_context(serve(can, "gateway", config(), "can.db"))
            gateway = gateway_server.base + "/v1"
            with_defaults = servers.enter_context(serve(can, "default-gateway", [], "default.db"))
            # Tokens as a company makes them, while the gateway runs.
            os.environ["SDK_TEAM_TOKEN"] = token(can, "team")
            os.environ["SDK_BROKE_TOKEN"] = token(can, "broke")
        for suite in suites:
            # The cost smoke test asserts nothing by itself and reads what only a gateway has.
            smoke = suite == "cost" and not args.gateway
            through_gateway = with_defaults.base + "/v1" if smoke else gateway
            for through, base in [("gateway", through_gateway)] + [("provider", provider)] * (suite in COMPARED):
                rows.append(run(suite, through, base, provider, key))
                print(rows[-1].line(), flush=True)
        if not args.gateway:
            faults += gateway_server.stop() + with_defaults.stop() + provider_server.stop()
            for secret in (key, anthropic_key(key), os.environ["SDK_TEAM_TOKEN"], os.environ["SDK_BROKE_TOKEN"]):
                faults += gateway_server.leaks(secret)
    for suite in suites:
        if suite in COMPARED:
            faults += compare(suite)
    faults += [f"{row.suite} through the {row.through}: {row.fault}" for row in rows if row.fault]
    for fault in faults:
        print(f"FAILED  {fault}")
    print("the SDK suites passed" if not faults else f"{len(faults)} faults; logs and transcripts: {WORK / 'run'}")
    return 1 if faults else 0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", nargs="*", choices=[[], *SUITES], help="default: all")
    parser.add_argument("--gateway", help="base URL of a running gateway, ending in /v1")
    parser.add_argument("--provider", help="base URL of the provider behind it, ending in /v1")
    args = parser.parse_args()
    if bool(args.gateway) != bool(args.provider):
        parser.error("--gateway and --provider go together")
    return args


def binary():
    can = Path(os.environ.get("CAN_BIN", ROOT / "target" / "debug" / "can"))
    if not can.is_file():
        raise Failure(f"{can} is missing; build it: cargo build")
    return str(can)


def preflight(suites):
    """Refuses to start without the tools, and without a comparison that can fail."""
    for suite in suites:
        command(suite)
    result = unittest.TextTestRunner(stream=open(os.devnull, "w")).run(
        unittest.defaultTestLoader.loadTestsFromModule(test_transcript)
    )
    if not result.wasSuccessful():
        problems = [text for _, text in result.failures + result.errors]
        raise Failure("the comparison itself is broken (tests/sdk/test_transcript.py):\n" + "\n".join(problems))


def venv_python(name):
    """The interpreter of a suite's environment; scripts/setup.sh made it, named by the hash of the requirements."""
    wanted = hashlib.sha256((HERE / name / "requirements.txt").read_bytes()).hexdigest()[:12]
    environment = WORK / f"{name}-{wanted}"
    if not (environment / ".ready").is_file():
        raise Failure(f"the Python environment of tests/sdk/{name} is missing; make it: scripts/setup.sh test")
    return str(environment / "bin" / "python")


def command(suite):
    """The program of a suite and the folder it runs in."""
    if suite in ("node", "cost", "dialects-node"):
        if not shutil.which("node"):
            raise Failure("node is missing; install it: scripts/setup.sh test (Debian, Ubuntu) or https://nodejs.org")
        if not all((HERE / "node" / "node_modules" / package).is_dir() for package in ("jest", "@anthropic-ai/sdk")):
            raise Failure("packages of tests/sdk/node are missing; install them: (cd tests/sdk/node && npm ci)")
        tool = {
            "node": ["jest", "--runInBand"],
            "cost": ["ts-node", "tests/cost-metering.test.ts"],
            "dialects-node": ["jest", "--silent", "--runInBand", "--testMatch", "<rootDir>/dialects/**/*.test.ts"],
        }[suite]
        return ["node", "support/node22.mjs", *tool], HERE / "node"
    folder = {"legacy": "python-legacy"}.get(suite, suite)
    return [venv_python(folder), "-m", "pytest"], HERE / folder


class Row:
    """The result of one suite through one server."""

    def __init__(self, suite, through):
        self.suite, self.through = suite, through
        self.passed = self.failed = self.skipped = 0
        self.seconds = 0.0
        self.fault = None

    def line(self):
        state = "ok    " if not self.fault else "FAILED"
        counts = f"{self.passed:3} passed {self.failed:3} failed {self.skipped:3} skipped"
        return f"{state}  {self.suite:15} {self.through:9} {counts}  {self.seconds:6.1f} s"


def run(suite, through, base, provider, key):
    """Runs one suite through one base URL; `provider` is for what it asks beside that."""
    row = Row(suite, through)
    stem = WORK / "run" / f"{suite}-{through}"
    argv, folder = command(suite)
    report = stem.with_suffix(".report")
    if suite in ("node", "dialects-node"):
        argv += ["--json", f"--outputFile={report}"]
        if through == "provider":
            argv += ["--testPathIgnorePatterns", "/node_modules/", "cost-metering", r"gateway\.only"]
    elif suite != "cost":
        argv += [f"--junitxml={report}"]
        if through == "provider":
            argv += ["--ignore-glob=*gateway_only*"]
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "ANTHROPIC_", "CHITTY", "TRANSCRIPT"))},
        "OPENAI_API_KEY": key,
        "ANTHROPIC_API_KEY": anthropic_key(key),
        "OPENAI_BASE": base,
        "PROVIDER_BASE": provider,
        "PYTHONDONTWRITEBYTECODE": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    if suite in COMPARED:
        environment["TRANSCRIPT"] = str(stem.with_suffix(".jsonl"))
    log = stem.with_suffix(".log")
    began = time.monotonic()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = process.wait(SUITE_SECONDS)
        except subprocess.TimeoutExpired:
            code = f"no end within {SUITE_SECONDS} s"
        finally:
            end(process)
    row.seconds = time.monotonic() - began
    count(row, suite, report, log)
    if code != 0:
        row.fault = f"exit {code}" if isinstance(code, int) else code
    elif row.failed or not row.passed:
        row.fault = f"{row.passed} passed, {row.failed} failed"
    elif row.skipped:
        row.fault = "a test was skipped"
    if row.fault:
        print("\n".join(log.read_text(errors="replace").splitlines()[-SHOWN_LINES:]))
    return row


def anthropic_key(key):
    """The same secret as a key that looks like Anthropic's."""
    return key.replace("sk-", "sk-ant-", 1)


def count(row, suite, report, log):
    """Reads how many tests ran from the suite's own report."""
    if suite == "cost":
        said = log.read_text(errors="replace")
        row.passed = int("1000-calls:" in said and "Check proxy metrics" in said)
        row.failed = 1 - row.passed
    elif not report.is_file():
        return
    elif suite in ("node", "dialects-node"):
        told = json.loads(report.read_text())
        row.passed, row.failed = told["numPassedTests"], told["numFailedTests"] + told["numRuntimeErrorTestSuites"]
        row.skipped = told["numPendingTests"] + told["numTodoTests"]
    else:
        for told in xml.etree.ElementTree.parse(report).getroot().iter("testsuite"):
            tests, skipped = int(told.get("tests")), int(told.get("skipped"))
            failed = int(told.get("failures")) + int(told.get("errors"))
            row.passed, row.failed, row.skipped = tests - failed - skipped, failed, skipped


def compare(suite):
    """Compares the two transcripts of a suite; returns the faults."""
    files = [WORK / "run" / f"{suite}-{through}.jsonl" for through in ("gateway", "provider")]
    if not all(file.is_file() for file in files):
        return [f"{suite}: a transcript is missing"]
    cases, found = transcript.compare(*files)
    print(f"{'equal ' if not found else 'FAILED'}  {suite:15} transcripts: {cases} cases, {len(found)} differences")
    hidden = len(found) - transcript.SHOWN
    more = [f"{suite}: and {hidden} more differences"] if hidden > 0 else []
    return [f"{suite}: {line}" for line in found[: transcript.SHOWN]] + more


class Server:
    """A child process that serves; leaving the `with` block ends it, whatever happened inside."""

    def __init__(self, name, argv, environment):
        self.name, self.log = name, WORK / "run" / f"{name}.log"
        # No key of the machine's owner gets into a test, and the settings of this test are the only ones.
        clean = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith(("CAN_", "CHITTY", "OPENAI_", "OLLAMA_"))}
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env={**clean, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        end(self.process)

    def wait_until(self, done):
        """Polls `done` until it returns something; a dead process or the time limit is a failure with the log's end."""
        limit = time.monotonic() + READY_SECONDS
        while not (result := done()):
            if self.process.poll() is not None:
                raise Failure(f"the {self.name} ended with code {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > limit:
                raise Failure(f"the {self.name} was not ready after {READY_SECONDS} s:\n{self.tail()}")
            time.sleep(0.02)
        return result

    def announced(self):
        """The URL in the line that says where it listens."""
        line = re.compile(r"listening on (http://\S+:\d+)")
        return self.wait_until(lambda: line.search(self.log.read_text(errors="replace")))[1]

    def tail(self):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-SHOWN_LINES:])

    def stop(self):
        """Asks it to stop and says what was wrong with how it did."""
        if self.process.poll() is not None:
            return [f"the {self.name} ended during the tests with code {self.process.returncode}:\n{self.tail()}"]
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return [f"the {self.name} did not stop within {STOP_SECONDS} s of SIGTERM"]
        # The simulated provider may die by the signal itself; the gateway has a shutdown of its own.
        fine = (0, -signal.SIGTERM) if self.name == "provider" else (0,)
        return [] if code in fine else [f"the {self.name} ended with code {code} after SIGTERM"]

    def leaks(self, key):
        text = self.log.read_text(errors="replace")
        found = [f"a client's key or token is in the log of the {self.name}"] if key in text else []
        return found + ([f"a panic is in the log of the {self.name}:\n{self.tail()}"] if "panicked at" in text else [])


def serve(can, name, arguments, database):
    """Starts a gateway and returns it ready."""
    listen, admin = free_ports(2)
    environment = {
        "CAN_LISTEN": f"127.0.0.1:{listen}",
        "CAN_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "CAN_DATABASE": str(WORK / "run" / database),
    }
    server = Server(name, [can, "serve", "--simulate", *arguments], environment)
    server.base = f"http://127.0.0.1:{listen}"
    began = time.monotonic()
    try:
        server.wait_until(lambda: answers(f"http://127.0.0.1:{admin}/readyz"))
    except BaseException:
        end(server.process)
        raise
    print(f"the {name} was ready after {(time.monotonic() - began) * 1000:.0f} ms", flush=True)
    return server


# The tenants that the tests of budgets need; and no cache but for one route: a reply from the cache lacks the headers that the
# transcripts compare, and may be a stream in other pieces. The cost suite has a gateway with the defaults.
TENANTS = """\
cache: {enabled: false}
routes: [{model: gpt-4.1, to: [openai/gpt-4.1], cache: {enabled: true}}]
auth: {anonymous: default}
tenants:
  team: {}
  broke: {budgets: [{usd: 0.000001}]}
"""


def config():
    """The arguments that name the configuration: SDK_CONFIG, which then has to have TENANTS too, or one with just these."""
    file = Path(os.environ.get("SDK_CONFIG") or WORK / "run" / "can.yaml").resolve()
    if "SDK_CONFIG" not in os.environ:
        file.write_text(TENANTS)
    return ["--config", str(file)]


def token(can, tenant):
    """A new token of a tenant: the only line on standard output."""
    argv = [can, "auth", "token", "create", "--tenant", tenant, *config()]
    made = subprocess.run(argv, env={**os.environ, "CAN_DATABASE": str(WORK / "run" / "can.db")}, capture_output=True, text=True, timeout=20)
    if made.returncode != 0:
        raise Failure(f"no token for tenant {tenant}: {made.stderr}")
    # The running gateway looks for new tokens five times a second.
    time.sleep(0.5)
    return made.stdout.strip()


def free_ports(count):
    """Ports that nobody listens on. Held together until all are known, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def answers(url):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=2) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def end(process):
    """Ends a child and what it started in its own session: politely, then not."""
    for sign, seconds in ((signal.SIGTERM, 3), (signal.SIGKILL, 3)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            if sign == signal.SIGKILL:
                return


def interrupted(*_):
    raise KeyboardInterrupt


if __name__ == "__main__":
    # A SIGTERM unwinds like Ctrl-C does, so that no server outlives this script.
    signal.signal(signal.SIGTERM, interrupted)
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"FAILED  {failure}")
    except KeyboardInterrupt:
        sys.exit("interrupted")
