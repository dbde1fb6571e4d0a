"""`openai<1`, pointed at the gateway by the playbook's one line (conftest.py): chat, streams, embeddings, errors."""

import asyncio

import openai
import pytest


def say(content):
    return [{"role": "user", "content": content}]


def test_chat():
    reply = openai.ChatCompletion.create(model="gpt-4o", messages=say("Say hello in 3 words."), temperature=0)
    assert reply.id.startswith("chatcmpl-")
    assert reply["object"] == "chat.completion"
    assert "hello" in reply.choices[0].message.content.lower()
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_chat_streamed():
    content = ""
    for chunk in openai.ChatCompletion.create(model="gpt-4o", messages=say("Count to 3."), stream=True):
        assert chunk["object"] == "chat.completion.chunk"
        assert len(chunk.choices) == 1
        content += chunk.choices[0].delta.get("content", "") or ""
    assert content == "1, 2, 3"
    assert chunk.choices[0].finish_reason == "stop"


def test_functions(record):
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    functions = [{"name": "get_weather", "parameters": parameters}]
    reply = openai.ChatCompletion.create(model="gpt-4o", messages=say("Call get_weather"), functions=functions)
    assert reply.choices[0].finish_reason == "function_call"
    assert reply.choices[0].message.function_call.name == "get_weather"
    arguments = ""
    for chunk in openai.ChatCompletion.create(
        model="gpt-4o", messages=say("Call get_weather"), functions=functions, stream=True
    ):
        arguments += chunk.choices[0].delta.get("function_call", {}).get("arguments", "")
    assert arguments == reply.choices[0].message.function_call.arguments
    record.note("arguments", arguments)


def test_embeddings():
    reply = openai.Embedding.create(model="text-embedding-3-small", input="hello world")
    assert reply["object"] == "list"
    assert len(reply["data"][0]["embedding"]) == 1536
    assert reply["usage"]["total_tokens"] > 0


def test_embeddings_of_a_list_as_floats():
    reply = openai.Embedding.create(model="text-embedding-3-small", input=["one", "two"], encoding_format="float")
    assert [item["index"] for item in reply["data"]] == [0, 1]


def test_completion():
    request = {"model": "gpt-3.5-turbo-instruct", "prompt": "Count to 4.", "max_tokens": 50}
    whole = openai.Completion.create(**request).choices[0].text
    streamed = "".join(chunk.choices[0].text for chunk in openai.Completion.create(**request, stream=True))
    assert "1, 2, 3, 4" in whole
    assert streamed == whole


def test_models(record):
    record.compare_only("notes", "a gateway lists its own routes")
    assert "gpt-4o" in {model.id for model in openai.Model.list()["data"]}
    assert openai.Model.retrieve("gpt-4o").id == "gpt-4o"


def test_moderation():
    reply = openai.Moderation.create(input="I will attack you")
    assert reply["results"][0]["flagged"]


def test_async_client(record):
    record.compare_only("none", "it does not run over the recording session")

    async def run():
        whole = await openai.ChatCompletion.acreate(model="gpt-4o", messages=say("Count to 3."))
        stream = await openai.ChatCompletion.acreate(model="gpt-4o", messages=say("Count to 3."), stream=True)
        parts = [chunk.choices[0].delta.get("content", "") or "" async for chunk in stream]
        return whole.choices[0].message.content, "".join(parts)

    assert asyncio.run(run()) == ("1, 2, 3", "1, 2, 3")


ERRORS = [
    (openai.error.InvalidRequestError, 400, {"temperature": 3}),
    (openai.error.AuthenticationError, 401, {"api_key": "sk-invalid"}),
    (openai.error.PermissionError, 403, {"headers": {"x-simulate": "403"}}),
    (openai.error.RateLimitError, 429, {"headers": {"x-simulate": "429,retry-after=7"}}),
    (openai.error.APIError, 500, {"headers": {"x-simulate": "500"}}),
    (openai.error.ServiceUnavailableError, 503, {"headers": {"x-simulate": "503"}}),
]


@pytest.mark.parametrize("kind, status, extra", ERRORS, ids=[str(status) for _, status, _ in ERRORS])
def test_error_class(kind, status, extra, record):
    with pytest.raises(kind) as caught:
        openai.ChatCompletion.create(model="gpt-4o", messages=say("Say hello"), **extra)
    assert type(caught.value) is kind
    assert caught.value.http_status == status
    record.note("error", {"class": kind.__name__, "status": status, "body": caught.value.json_body})


def test_unknown_model(record):
    record.compare_only("notes", "a gateway without a route for the model answers itself")
    with pytest.raises(openai.error.InvalidRequestError) as caught:
        openai.ChatCompletion.create(model="invalid-model-name", messages=say("test"))
    assert (caught.value.http_status, caught.value.code) == (404, "model_not_found")
    record.note("code", caught.value.code)


def test_error_inside_a_stream(record):
    stream = openai.ChatCompletion.create(
        model="gpt-4o", messages=say("Count to 9."), stream=True, headers={"x-simulate": "error=4"}
    )
    seen = 0
    with pytest.raises(openai.error.OpenAIError) as caught:
        for _ in stream:
            seen += 1
    assert seen == 4
    record.note("error", {"class": type(caught.value).__name__, "message": str(caught.value)})
