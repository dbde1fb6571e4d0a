"""The comparison must be able to fail: every kind of difference that it promises to see, and every kind it must not."""

import copy
import json
import tempfile
import unittest

import transcript

STREAM = (
    'data: {"id":"chatcmpl-AAAAAAAAAA","created":1,"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    'data: {"id":"chatcmpl-AAAAAAAAAA","created":1,"choices":[]}\n\n'
    "data: [DONE]\n\n"
)


def case(name="a test", mode="wire", text='{"id":"chatcmpl-AAAAAAAAAA","created":1,"n":1}', kind="application/json"):
    headers = {"content-type": kind, "x-request-id": "req_1", "openai-processing-ms": "3", "openai-version": "1"}
    exchange = {"method": "POST", "path": "/v1/x", "status": 200, "headers": headers, "ended": "complete", "text": text}
    return {"case": name, "mode": mode, "exchanges": [exchange], "notes": {"content": "Hi"}}


def stream(text=STREAM):
    return case(text=text, kind="text/event-stream")


def found(left, right):
    with tempfile.NamedTemporaryFile("w+") as a, tempfile.NamedTemporaryFile("w+") as b:
        for file, cases in ((a, left), (b, right)):
            file.writelines(json.dumps(one) + "\n" for one in cases)
            file.flush()
        return transcript.compare(a.name, b.name)[1]


class Comparison(unittest.TestCase):
    def differs(self, left, right, place):
        lines = found([left], [right])
        self.assertEqual(len(lines), 1, lines)
        self.assertIn(place, lines[0])

    def changed(self, change):
        other = copy.deepcopy(case())
        change(other["exchanges"][0], other)
        return other

    def test_ids_dates_and_times_are_neutral(self):
        other = case(text='{"id":"chatcmpl-BBBBBBBBBB","created":2,"n":1}')
        other["exchanges"][0]["headers"].update({"x-request-id": "req_2", "openai-processing-ms": "99"})
        self.assertEqual(found([case()], [other]), [])
        self.assertEqual(found([stream()], [stream(STREAM.replace("AAAAAAAAAA", "CCCCCCCCCC").replace("\n", "\r\n"))]), [])

    def test_status_headers_bodies_and_notes_are_not(self):
        self.differs(case(), self.changed(lambda e, _: e.update(status=201)), ".status")
        self.differs(case(), self.changed(lambda e, _: e["headers"].update({"openai-version": "2"})), "openai-version")
        self.differs(case(), self.changed(lambda e, _: e["headers"].pop("openai-version")), "only through the gateway")
        self.differs(case(), self.changed(lambda e, _: e["headers"].pop("x-request-id")), "x-request-id")
        self.differs(case(), self.changed(lambda e, _: e["headers"].update({"content-type": "text/html"})), "content-type")
        self.differs(case(), self.changed(lambda e, _: e.update(ended="broken")), ".ended")
        self.differs(case(), self.changed(lambda _, c: c["notes"].update(content="Ho")), ".notes.content")
        self.differs(case(), case(text='{"id":"chatcmpl-AAAAAAAAAA","created":1,"n":2}'), ".body.n")
        self.differs(case(), case(text='{"id":"chatcmpl-AAAAAAAAAA","created":1,"n":true}'), ".body.n")
        self.differs(case(), case(text='{"id":"chatcmpl-AAAAAAAAAA","created":null,"n":1}'), ".body.created")

    def test_streams(self):
        self.differs(stream(), stream(STREAM.replace("data: [DONE]\n\n", "")), "3 items")
        self.differs(stream(), stream(STREAM.replace('"Hi"', '"Ho"')), ".content")
        self.differs(stream(), stream(STREAM.replace('"choices":[]', '"choices":[],"usage":null')), "usage")
        # An id that changes from one chunk to the next is a fault although ids are neutral.
        self.differs(stream(), stream(STREAM.replace("AAAAAAAAAA", "BBBBBBBBBB", 1)), ".id")
        halves = STREAM.split("\n\n")
        swapped = "\n\n".join([halves[1], halves[0], *halves[2:]])
        self.assertTrue(found([stream()], [stream(swapped)]))
        self.assertTrue(found([stream()], [stream(STREAM[:-1])]))

    def test_missing_cases_and_empty_files(self):
        self.assertIn("recorded only", found([case()], [case(), case("another")])[0])
        self.assertEqual(found([], []), ["no test was recorded"])
        self.assertRaises(ValueError, found, [case(), case()], [case()])

    def test_a_case_that_compares_its_notes(self):
        left, right = case(mode="notes"), case(mode="notes", text="{}")
        self.assertEqual(found([left], [right]), [])
        right["exchanges"][0]["status"] = 404
        self.differs(left, right, ".status")


if __name__ == "__main__":
    unittest.main()
