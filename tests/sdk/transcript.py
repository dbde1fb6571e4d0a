"""Compares the transcripts of two runs of a suite: all that must be equal between a gateway and the provider behind it.

A transcript is a file with one line of JSON per test: `case`, `mode`, `exchanges`, `notes` (see recorder.py and
node/support/record.ts). Equal means: the same tests; in each the same exchanges with the same status, the same selected
headers (content type, `openai-*`, `x-ratelimit-*`, `retry-after*`), the same body or the same events in the same order;
and the same notes. Made neutral before: ids (numbered by first appearance, so that an id that changes within a reply
still shows), dates, processing times, request ids, and hashes of multipart bodies, whose boundary is random.

By hand: python3 transcript.py GATEWAY.jsonl DIRECT.jsonl
"""

import json
import re
import sys

IDS = re.compile(r"\b(chatcmpl|cmpl|resp|msg|call|fc|ctc|modr|req|file)[-_][A-Za-z0-9-]{8,}")
DATES = {"created", "created_at", "completed_at", "expires_at"}
HASHES = {"sha256"}
TIMES = {"openai-processing-ms", "x-request-id"}
SHOWN = 12


def load(path):
    """The cases of a transcript by name."""
    cases = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line)
            if case["case"] in cases:
                raise ValueError(f"two tests are called {case['case']!r}")
            cases[case["case"]] = case
    return cases


def neutral(case):
    """The case without what may differ between two runs."""
    ids = {}

    def name(match):
        return ids.setdefault(match[0], f"<{match[1]} {len(ids) + 1}>")

    def walk(value, key=None):
        if isinstance(value, dict):
            return {IDS.sub(name, k): walk(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [walk(item) for item in value]
        if isinstance(value, str):
            return "<hash>" if key in HASHES else IDS.sub(name, value)
        if key in DATES and isinstance(value, (int, float)) and not isinstance(value, bool):
            return "<date>"
        return value

    exchanges = [exchange(raw, case["mode"]) for raw in case["exchanges"]]
    return walk({"mode": case["mode"], "exchanges": exchanges, "notes": case["notes"]})


def exchange(raw, mode):
    """One exchange with its body parsed; only its outline when the test compares its notes."""
    headers = {k: f"<{k}>" if k in TIMES else v for k, v in raw["headers"].items()}
    kind = headers.get("content-type", "").replace(" ", "").lower()
    outline = {"method": raw["method"], "path": raw["path"], "status": raw["status"], "content-type": kind}
    if mode == "notes":
        return outline
    headers.pop("content-type", None)
    if "text" in raw:
        body = events(raw["text"]) if kind.startswith("text/event-stream") else parsed(raw["text"])
    else:
        body = {"base64": raw["base64"]}
    return {**outline, "headers": headers, "ended": raw["ended"], "body": body}


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def events(text):
    """The events of a stream, each with its name and data; a rest without an empty line after it is kept as such."""
    blocks = re.split(r"\r?\n\r?\n", text)
    rest = blocks.pop()
    result = []
    for block in blocks:
        fields = [line.partition(":") for line in block.splitlines() if line and not line.startswith(":")]
        get = lambda wanted: "\n".join(v.removeprefix(" ") for n, _, v in fields if n == wanted)
        if fields:
            result.append({"event": get("event"), "data": parsed(get("data"))})
    return result + ([{"rest": rest}] if rest else [])


def differences(left, right, path=""):
    """Yields `path: left != right` for every place where two JSON values differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in [*left, *(k for k in right if k not in left)]:
            if key not in left or key not in right:
                where, value = ("gateway", left[key]) if key in left else ("provider", right[key])
                yield f"{path}.{key}: only through the {where}: {short(value)}"
            else:
                yield from differences(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            yield f"{path}: {len(left)} items through the gateway, {len(right)} from the provider"
        for i, (a, b) in enumerate(zip(left, right)):
            yield from differences(a, b, f"{path}[{i}]")
    elif left != right or type(left) is not type(right):
        yield f"{path}: gateway {short(left)}, provider {short(right)}"


def short(value):
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."


def compare(gateway, provider):
    """The number of cases of two transcript files and a list of their differences, each with the case's name."""
    left, right = load(gateway), load(provider)
    found = []
    for name in sorted(left.keys() | right.keys()):
        if name not in left or name not in right:
            found.append(f"{name}: recorded only {'through the gateway' if name in left else 'at the provider'}")
            continue
        found += [f"{name}: {line}" for line in differences(neutral(left[name]), neutral(right[name]))]
    if not left:
        found.append("no test was recorded")
    return len(left), found


def main():
    cases, found = compare(*sys.argv[1:3])
    print("\n".join(found[:SHOWN]))
    print(f"{cases} cases, {len(found)} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
