"""Every refusal arrives as the class that code written against OpenAI catches, with the same fields; and headers."""

import time

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Say hello"}]


def fault(error):
    fields = {name: getattr(error, name, None) for name in ("status_code", "code", "type", "param", "message", "body")}
    return {"class": type(error).__name__, **fields}


@pytest.fixture
def refused(client, record):
    """Runs a chat request that must fail with this class, notes the error and returns it."""

    def run(kind, headers=None, by=None, **body):
        request = {"model": "gpt-4o", "messages": MESSAGES, **body}
        with pytest.raises(kind) as caught:
            (by or client).chat.completions.create(**request, extra_headers=headers)
        assert type(caught.value) is kind
        record.note("error", fault(caught.value))
        return caught.value

    return run


def test_unknown_model(refused, record):
    record.compare_only("notes", "a gateway without a route for the model answers itself")
    error = refused(openai.NotFoundError, model="invalid-model-name")
    assert (error.status_code, error.code, error.type) == (404, "model_not_found", "invalid_request_error")
    assert "invalid-model-name" in error.message
    assert set(error.body) == {"message", "type", "param", "code"}
    record.note("error", {**fault(error), "message": "free", "body": "free"})


def test_unknown_model_in_models(client, record):
    record.compare_only("notes", "a gateway answers from its own routes")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("invalid-model-name")
    record.note("error", {**fault(caught.value), "message": "free", "body": "free"})


def test_parameter_out_of_range(refused):
    error = refused(openai.BadRequestError, temperature=3)
    assert (error.type, error.param) == ("invalid_request_error", "temperature")


@pytest.mark.parametrize(
    "messages", [[], "hello", [{"content": "no role"}], [{"role": "nobody", "content": "x"}]], ids=lambda m: str(m)[:20]
)
def test_wrong_messages(refused, messages):
    refused(openai.BadRequestError, messages=messages)


def test_body_that_is_not_an_object(client, record):
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=["not", "an", "object"], cast_to=object)
    record.compare_only("notes", "a gateway that reads the model refuses such a body itself")
    record.note("class", type(caught.value).__name__)


def test_parameter_that_the_model_refuses(refused):
    error = refused(openai.BadRequestError, model="o3-mini", max_tokens=5)
    assert (error.code, error.param) == ("unsupported_parameter", "max_tokens")


def test_refusal_of_a_stream(refused):
    refused(openai.BadRequestError, temperature=3, stream=True)


def test_wrong_key(refused, other_client):
    error = refused(openai.AuthenticationError, by=other_client(api_key="sk-invalid"))
    assert (error.status_code, error.code) == (401, "invalid_api_key")


def test_rate_limit(refused):
    error = refused(openai.RateLimitError, headers={"x-simulate": "429,retry-after=7"})
    assert error.response.headers["retry-after"] == "7"
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_no_quota(refused):
    assert refused(openai.RateLimitError, headers={"x-simulate": "quota"}).code == "insufficient_quota"


def test_permission(refused):
    refused(openai.PermissionDeniedError, headers={"x-simulate": "403"})


def test_failure_of_the_provider(refused):
    assert refused(openai.InternalServerError, headers={"x-simulate": "500"}).status_code == 500


def test_unknown_path(client, record):
    with pytest.raises(openai.NotFoundError) as caught:
        client.get("/no/such/path", cast_to=object)
    record.note("error", fault(caught.value))


def test_error_inside_a_stream(client, record):
    stream = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Count to 9."}],
        stream=True,
        extra_headers={"x-simulate": "error=4"},
    )
    seen = []
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            seen.append(chunk.choices[0].delta.to_dict())
    assert len(seen) == 4
    record.note("seen", seen)
    record.note("error", fault(caught.value))


def test_own_retry_of_the_sdk(other_client, record):
    record.compare_only("none", "who retries, the SDK or the gateway, is free")
    headers = {"x-simulate": f"fail-first=1,key=python-{time.time_ns()}"}
    reply = other_client(max_retries=2).chat.completions.create(
        model="gpt-4o", messages=MESSAGES, extra_headers=headers
    )
    assert reply.choices[0].finish_reason == "stop"


def test_headers_of_a_json_reply(client):
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.request_id == raw.headers["x-request-id"]
    assert raw.headers["x-ratelimit-limit-requests"]
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.parse().choices[0].finish_reason == "stop"


def test_headers_of_a_stream(client):
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, stream=True
    ) as raw:
        assert raw.headers["content-type"].startswith("text/event-stream")
        assert list(raw.iter_lines())[-2:] == ["data: [DONE]", ""]
