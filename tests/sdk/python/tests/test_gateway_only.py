"""What only the gateway adds. run.py leaves this file out of the run against the provider itself."""

import os

import httpx2
import openai
import pytest

from conftest import BASE

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


def test_a_token_works_like_a_key(other_client):
    client = other_client(api_key=os.environ["SDK_TEAM_TOKEN"])
    reply = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert reply.usage.total_tokens > 0


@pytest.mark.parametrize("stream", [False, True])
def test_over_budget_is_a_402_that_the_sdk_does_not_retry(stream):
    sent = []
    http = httpx2.Client(event_hooks={"request": [sent.append]})
    with openai.OpenAI(base_url=BASE, api_key=os.environ["SDK_BROKE_TOKEN"], max_retries=3, http_client=http) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=stream)
    error = caught.value
    assert (error.status_code, error.type, error.code) == (402, "insufficient_quota", "budget_exceeded")
    assert error.body["budget"]["tenant"] == "broke"
    assert error.response.headers["x-should-retry"] == "false"
    assert len(sent) == 1


def test_an_unknown_token_is_an_authentication_error():
    with openai.OpenAI(base_url=BASE, api_key="chitty_nobody", max_retries=3) as client:
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
