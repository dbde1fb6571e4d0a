"""The Messages API of the `anthropic` package over a Claude model: nothing is translated, nothing may differ."""

import time

import anthropic
import pydantic
import pytest
from conftest import CLAUDE, GATEWAY, PIXEL, messages_tools, run_tools, user

IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}

REQUESTS = {
    "text": {"messages": [user("Count to 12.")]},
    "characters": {"messages": [user('Return the string Grüße 世界 🌍 "q" \\ x')]},
    "system and blocks": {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [user([{"type": "text", "text": "Hm?"}])],
    },
    "stop sequence": {"messages": [user("Count to 9.")], "stop_sequences": ["4"]},
    "limit": {"messages": [user("Count to 9.")], "max_tokens": 2},
    "tool": {"messages": [user("Call get_weather for Oslo")], "tools": messages_tools("get_weather")},
    "parallel tools": {
        "messages": [user("Call get_weather and get_time")],
        "tools": messages_tools("get_weather", "get_time", strict=True),
    },
    "one tool": {
        "messages": [user("Call get_weather and get_time")],
        "tools": messages_tools("get_weather", "get_time"),
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
    },
    "picture": {"messages": [user([IMAGE, {"type": "text", "text": "What is it?"}])]},
    "thinking": {"messages": [user("Count to 3.")], "thinking": {"type": "enabled", "budget_tokens": 1024}},
    "redacted thinking": {
        "messages": [user("ANTHROPIC_MAGIC_STRING_TRIGGER_REDACTED_THINKING")],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "refusal": {"messages": [user("ANTHROPIC_MAGIC_STRING_TRIGGER_REFUSAL")]},
    "metadata": {"messages": [user("Say hello")], "metadata": {"user_id": "u-1"}, "service_tier": "auto"},
}

SAME = pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS.keys())


def full(body):
    return {"model": CLAUDE, "max_tokens": 2048, **body}


@SAME
def test_message(gateway_anthropic, direct_anthropic, request_body):
    through = gateway_anthropic.messages.create(**full(request_body))
    direct = direct_anthropic.messages.create(**full(request_body))
    assert through.to_dict() == direct.to_dict()
    assert through._request_id


@SAME
def test_stream(gateway_anthropic, direct_anthropic, request_body):
    def events(client):
        return [event.to_dict() for event in client.messages.create(**full(request_body), stream=True)]

    through = events(gateway_anthropic)
    assert through == events(direct_anthropic)
    assert (through[0]["type"], through[-1]["type"]) == ("message_start", "message_stop")


@SAME
def test_stream_helper(gateway_anthropic, direct_anthropic, request_body):
    with gateway_anthropic.messages.stream(**full(request_body)) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    direct = direct_anthropic.messages.create(**full(request_body))
    assert final.stop_reason == direct.stop_reason

    def content(message):
        # The ids of calls follow from the request, which says `stream` here.
        return [{**block.to_dict(), "id": None} for block in message.content]

    assert content(final) == content(direct)
    assert text == "".join(block.text for block in direct.content if block.type == "text")
    assert final.usage.output_tokens == direct.usage.output_tokens


@SAME
def test_count_tokens(gateway_anthropic, direct_anthropic, request_body):
    known = ("messages", "system", "tools", "tool_choice", "thinking")
    body = {"model": CLAUDE, **{key: value for key, value in request_body.items() if key in known}}
    through = gateway_anthropic.messages.count_tokens(**body)
    assert through.input_tokens == direct_anthropic.messages.count_tokens(**body).input_tokens > 0
    assert through._request_id


@pytest.mark.parametrize("more", [{}, {"thread": False}], ids=["threads", "no threads"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tool_runner(gateway_anthropic, stream, more):
    run_tools(gateway_anthropic, CLAUDE, stream=stream, **more)


def test_thinking_in_a_tool_loop(gateway_anthropic):
    request = full({"tools": messages_tools("get_weather"), "thinking": {"type": "enabled", "budget_tokens": 1024}})
    turns = [user("Call get_weather for Oslo")]
    with gateway_anthropic.messages.stream(**request, messages=turns) as stream:
        first = stream.get_final_message()
    thought, call = first.content
    assert (thought.type, call.type) == ("thinking", "tool_use") and thought.signature
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    again = [*turns, {"role": "assistant", "content": first.content}, user([result])]
    second = gateway_anthropic.messages.create(**request, messages=again)
    assert [block.type for block in second.content] == ["thinking", "text"]
    assert second.content[1].text == "The tool answered: 21 degrees"
    # The provider does check: a signature that was tampered with is refused.
    forged = [{**thought.to_dict(), "signature": "x"}, call.to_dict()]
    bad = [*turns, {"role": "assistant", "content": forged}, user([result])]
    with pytest.raises(anthropic.BadRequestError):
        gateway_anthropic.messages.create(**request, messages=bad)


class Answer(pydantic.BaseModel):
    word: str
    count: int


def test_structured_output(gateway_anthropic):
    request = {"messages": [user("Solve it")], "output_format": Answer}
    reply = gateway_anthropic.messages.parse(**full(request))
    assert reply.parsed_output == Answer(word="example word", count=1)
    with gateway_anthropic.messages.stream(**full(request)) as stream:
        assert stream.get_final_message().parsed_output == Answer(word="example word", count=1)


def test_prompt_cache(gateway_anthropic):
    marked = {"type": "text", "text": f"{time.time_ns()} " + "A long prompt. " * 50, "cache_control": {"type": "ephemeral"}}
    request = full({"system": [marked], "messages": [user("Say hello")]})
    written, read = (gateway_anthropic.messages.create(**request).usage for _ in range(2))
    assert written.cache_creation_input_tokens == read.cache_read_input_tokens > 100
    assert written.cache_read_input_tokens == read.cache_creation_input_tokens == 0


def test_betas_reach_the_provider(gateway_anthropic):
    create = gateway_anthropic.beta.messages.create
    request = full({"messages": [user("Count to 3.")]})
    assert create(**request, betas=["made-up-2099-01-01"]).content[0].text == "1, 2, 3"
    # A field that the provider takes with its beta only.
    edits = {"context_management": {"edits": []}}
    known = create(**request, **edits, betas=["made-up-2099-01-01", "context-management-2025-06-27"])
    assert known.content[0].text == "1, 2, 3"
    with pytest.raises(anthropic.BadRequestError) as caught:
        gateway_anthropic.messages.create(**request, extra_body=edits)
    assert "context_management" in caught.value.api_message


def test_unknown_field_passes_to_the_provider(gateway_anthropic):
    with pytest.raises(anthropic.BadRequestError) as caught:
        gateway_anthropic.messages.create(**full({"messages": [user("Hm?")]}), extra_body={"new_field": 1})
    assert caught.value.api_message == "new_field: Extra inputs are not permitted"


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@STREAM
@pytest.mark.parametrize(
    "simulated, kind",
    [
        ("400", anthropic.BadRequestError),
        ("401", anthropic.AuthenticationError),
        ("403", anthropic.PermissionDeniedError),
        ("404", anthropic.NotFoundError),
        ("413", anthropic.ContentTooLargeError),
        ("429", anthropic.RateLimitError),
        ("500", anthropic.InternalServerError),
        ("529", anthropic.OverloadedError),
    ],
)
def test_error_of_the_provider(gateway_anthropic, direct_anthropic, stream, simulated, kind):
    def refused(client):
        with pytest.raises(kind) as caught:
            request = full({"messages": [user("Say hello")], "stream": stream})
            client.messages.create(**request, extra_headers={"x-simulate": simulated})
        assert type(caught.value) is kind
        return caught.value

    through, direct = refused(gateway_anthropic), refused(direct_anthropic)
    assert (through.status_code, through.type) == (direct.status_code, direct.type)
    assert through.api_message == direct.api_message
    assert through.request_id and through.body["request_id"] and through.body["type"] == "error"


def test_request_that_the_provider_refuses(gateway_anthropic, direct_anthropic):
    """A result without its call: the provider's own words arrive."""
    lost = user([{"type": "tool_result", "tool_use_id": "toolu_lost", "content": "x"}])
    said = []
    for client in (gateway_anthropic, direct_anthropic):
        with pytest.raises(anthropic.BadRequestError) as caught:
            client.messages.create(**full({"messages": [lost], "tools": messages_tools("get_weather")}))
        said.append(caught.value.api_message)
    assert said[0] == said[1] and "toolu_lost" in said[0]


def test_error_inside_a_stream(gateway_anthropic):
    stream = gateway_anthropic.messages.create(
        **full({"messages": [user("Count to 9.")]}), stream=True, extra_headers={"x-simulate": "error=7"}
    )
    text = ""
    with pytest.raises(anthropic.APIStatusError) as caught:
        for event in stream:
            text += event.delta.text if event.type == "content_block_delta" else ""
    assert text and "1, 2, 3, 4, 5, 6, 7, 8, 9".startswith(text)
    assert caught.value.type == "overloaded_error"


@pytest.mark.parametrize("version", ["2023-06-01", None], ids=["first version", "SDK's own"])
def test_version_of_the_api(gateway_anthropic, version):
    headers = {"anthropic-version": version} if version else None
    reply = gateway_anthropic.messages.create(**full({"messages": [user("Count to 3.")]}), extra_headers=headers)
    assert reply.content[0].text == "1, 2, 3"


@pytest.mark.parametrize("credential", ["api_key", "auth_token", "x-api-key"])
def test_token_of_the_gateway(credential, team_token):
    """However the SDK's version sends it: as a bearer today, in `x-api-key` before 2.0. A stranger is refused."""

    def client(token):
        options = {credential: token}
        if credential == "x-api-key":
            options = {"default_headers": {"x-api-key": token, "authorization": anthropic.omit}}
        return anthropic.Anthropic(base_url=GATEWAY, max_retries=0, **options)

    with client(team_token) as known:
        assert known.messages.create(**full({"messages": [user("Count to 3.")]})).content[0].text == "1, 2, 3"
    with client("chitty_nobody") as unknown, pytest.raises(anthropic.AuthenticationError) as caught:
        unknown.messages.create(**full({"messages": [user("Count to 3.")]}))
    assert caught.value.type == "authentication_error" and caught.value.request_id
