"""What only the gateway adds. run.py leaves this file out of the run against the provider itself."""

import pytest

MESSAGES = [{"role": "user", "content": "Return the string OK."}]


@pytest.fixture(autouse=True)
def not_compared(record):
    record.compare_only("none", "there is nothing to compare it with")


def test_json_reply_names_model_provider_cache_and_cost(client):
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.headers["x-chittycan-model"] == "gpt-4o"
    assert raw.headers["x-chittycan-provider"] == "openai"
    assert raw.headers["x-chittycan-cache"] in ("HIT", "MISS", "BYPASS")
    usage = raw.parse().usage
    # gpt-4o in conf/prices.yaml: $2.50 and $10 per million tokens.
    expected = usage.prompt_tokens * 2.5e-6 + usage.completion_tokens * 10e-6
    assert float(raw.headers["x-chittycan-cost"]) == pytest.approx(expected, abs=1e-9)


def test_stream_names_model_and_provider(client):
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, stream=True
    ) as raw:
        assert raw.headers["x-chittycan-model"] == "gpt-4o"
        assert raw.headers["x-chittycan-provider"] == "openai"


def test_embeddings_have_a_cost(client):
    raw = client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="hello world " * 100)
    assert float(raw.headers["x-chittycan-cost"]) > 0
