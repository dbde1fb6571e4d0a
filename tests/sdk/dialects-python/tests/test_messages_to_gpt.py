"""The Messages API of the `anthropic` package, answered by an OpenAI model."""

import anthropic
import pydantic
import pytest
from conftest import GPT, PIXEL, PROMPTS, arguments_of, chat_tools, message_answer, messages_tools, run_tools, user


def full(body):
    return {"model": GPT, "max_tokens": 2048, **body}


def whole(client, body):
    return client.messages.create(**body)


def streamed(client, body):
    """Assembles the events by hand, and checks their order on the way."""
    events = list(client.messages.create(**body, stream=True))
    events = [event for event in events if event.type != "ping"]
    first, last, end = events[0], events[-2], events[-1]
    assert (first.type, last.type, end.type) == ("message_start", "message_delta", "message_stop")
    message = first.message
    assert message.content == [] and message.stop_reason is None and message.role == "assistant"
    open_block = None
    for event in events[1:-2]:
        if event.type == "content_block_start":
            assert open_block is None and event.index == len(message.content)
            open_block, inputs = event.content_block.to_dict(), ""
            assert not open_block.get("text") and not open_block.get("input")
        elif event.type == "content_block_delta":
            assert event.index == len(message.content)
            if event.delta.type == "text_delta":
                open_block["text"] += event.delta.text
            else:
                assert event.delta.type == "input_json_delta"
                inputs += event.delta.partial_json
        else:
            assert event.type == "content_block_stop" and event.index == len(message.content)
            if open_block["type"] == "tool_use":
                open_block["input"] = arguments_of(inputs or "{}")
            kind = {"text": anthropic.types.TextBlock, "tool_use": anthropic.types.ToolUseBlock}[open_block["type"]]
            message.content.append(kind(**open_block))
            open_block = None
    assert open_block is None
    message.stop_reason, message.stop_sequence = last.delta.stop_reason, last.delta.stop_sequence
    message.usage.input_tokens, message.usage.output_tokens = last.usage.input_tokens, last.usage.output_tokens
    return message


def helper(client, body):
    with client.messages.stream(**body) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == "".join(block.text for block in final.content if block.type == "text")
    return final


@pytest.fixture(params=[whole, streamed, helper], ids=lambda way: way.__name__)
def ask(request, gateway_anthropic):
    """Asks the OpenAI model through the gateway: whole, as a stream, and with the SDK's own accumulator."""

    def run(**body):
        message = request.param(gateway_anthropic, full(body))
        assert (message.type, message.role) == ("message", "assistant")
        assert message.model.startswith(GPT) and message.id.startswith("msg_")
        return message_answer(message)

    return run


@pytest.fixture
def gpt_says(direct_openai):
    """What the model itself says to a request of its own dialect."""

    def ask(**body):
        return direct_openai.chat.completions.create(model=GPT, **body)

    return ask


def same(answer, own):
    message = own.choices[0].message
    assert answer.text == (message.content or "")
    assert answer.named() == [(c.function.name, arguments_of(c.function.arguments)) for c in message.tool_calls or []]
    assert all(id for id, _, _ in answer.calls)
    assert answer.usage.input_tokens == own.usage.prompt_tokens > 0
    assert answer.usage.output_tokens == own.usage.completion_tokens > 0


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text(ask, gpt_says, prompt):
    answer = ask(messages=[user(prompt)])
    same(answer, gpt_says(messages=[user(prompt)]))
    assert answer.text and answer.finish == "end_turn"


def test_system_and_history(ask, gpt_says):
    turns = [user("Say hello"), {"role": "assistant", "content": "Hello."}, user("What did I say first?")]
    blocks = [{"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}}]
    answer = ask(system=blocks, messages=turns)
    same(answer, gpt_says(messages=[{"role": "system", "content": "You are brief."}, *turns]))


def test_limit_and_stop(ask):
    cut = ask(messages=[user("Count to 9.")], max_tokens=2)
    assert (cut.text, cut.finish, cut.usage.output_tokens) == ("1, 2,", "max_tokens", 2)
    stopped = ask(messages=[user("Count to 9.")], stop_sequences=["4"])
    assert stopped.text == "1, 2, 3, "


def test_tool_round_trip(ask, gpt_says):
    turns = [user("Call get_weather for Oslo")]
    first = ask(messages=turns, tools=messages_tools("get_weather", strict=True))
    own = gpt_says(messages=turns, tools=chat_tools("get_weather"))
    same(first, own)
    assert first.named() == [("get_weather", {"city": "example city"})]
    assert first.finish == "tool_use"
    result = {"type": "tool_result", "tool_use_id": first.calls[0][0], "content": "21 degrees"}
    again = [*turns, {"role": "assistant", "content": first.reply.content}, user([result])]
    second = ask(messages=again, tools=messages_tools("get_weather", strict=True))
    assert (second.text, second.finish) == ("The tool answered: 21 degrees", "end_turn")


def test_parallel_tool_calls(ask, gpt_says):
    turns, tools = [user("Call get_weather and get_time")], messages_tools("get_weather", "get_time", strict=True)
    first = ask(messages=turns, tools=tools)
    same(first, gpt_says(messages=turns, tools=chat_tools("get_weather", "get_time")))
    assert first.named() == [("get_weather", {"city": "example city"}), ("get_time", {"zone": "example zone"})]
    (a, _, _), (b, _, _) = first.calls
    assert a != b
    results = [
        {"type": "tool_result", "tool_use_id": b, "content": [{"type": "text", "text": "noon"}]},
        {"type": "tool_result", "tool_use_id": a, "content": "no such city", "is_error": True},
    ]
    second = ask(messages=[*turns, {"role": "assistant", "content": first.reply.content}, user(results)], tools=tools)
    assert second.finish == "end_turn" and second.text.startswith("The tool answered: ")


def test_one_call_at_a_time_and_a_forced_tool(ask):
    tools = messages_tools("get_weather", "get_time")
    both = [user("Call get_weather and get_time")]
    one = ask(messages=both, tools=tools, tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert [name for name, _ in one.named()] == ["get_weather"]
    forced = ask(messages=[user("Anything")], tools=tools, tool_choice={"type": "tool", "name": "get_time"})
    assert forced.named() == [("get_time", {"zone": "example zone"})]
    some = ask(messages=[user("Anything")], tools=tools, tool_choice={"type": "any"})
    assert len(some.calls) == 1 and some.finish == "tool_use"
    assert ask(messages=both, tools=tools, tool_choice={"type": "none"}).calls == []


@pytest.mark.parametrize("more", [{}, {"thread": False}], ids=["threads", "no threads"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tool_runner(gateway_anthropic, stream, more):
    run_tools(gateway_anthropic, GPT, stream=stream, **more)


def test_picture(ask, gpt_says):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    text = {"type": "text", "text": "What is in the picture?"}
    answer = ask(messages=[user([image, text])])
    same(answer, gpt_says(messages=[user([url, text])]))
    assert answer.usage.input_tokens > 85


class Answer(pydantic.BaseModel):
    word: str
    count: int


def test_structured_output(gateway_anthropic):
    request = full({"messages": [user("Solve it")], "output_format": Answer})
    expected = Answer(word="example word", count=1)
    assert gateway_anthropic.messages.parse(**request).parsed_output == expected
    with gateway_anthropic.messages.stream(**request) as stream:
        assert stream.get_final_message().parsed_output == expected


def test_count_tokens(gateway_anthropic):
    def count(**body):
        reply = gateway_anthropic.messages.count_tokens(model=GPT, **body)
        assert reply._request_id
        return reply.input_tokens

    short = count(messages=[user("Hello")])
    assert 1 <= short < 20
    # "hello" with a space before it is one token of every OpenAI model.
    assert count(messages=[user("Hello" + " hello" * 100)]) == short + 100
    assert count(system="You are brief.", messages=[user("Hello")]) > short
    assert count(messages=[user("Hello")], tools=messages_tools("get_weather")) > short + 10
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    assert count(messages=[user([image, {"type": "text", "text": "Hello"}])]) > short


def test_what_is_left_out_is_named(gateway_anthropic):
    raw = gateway_anthropic.beta.messages.with_raw_response.create(
        **full({"messages": [user("Count to 3.")]}), betas=["made-up-2099-01-01"], extra_body={"top_k": 5}
    )
    assert raw.headers["x-chittycan-dropped"] == "top_k"
    assert raw.headers["request-id"] == raw.parse()._request_id
    assert raw.parse().content[0].text == "1, 2, 3"


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def refusal(client, stream, kind, headers=None, **body):
    with pytest.raises(kind) as caught:
        request = full({"messages": [user("Say hello")], "stream": stream, **body})
        client.messages.create(**request, extra_headers=headers)
    error = caught.value
    assert type(error) is kind
    assert error.body["type"] == "error" and error.api_message
    assert error.request_id == error.body["request_id"] != ""
    return error


@STREAM
@pytest.mark.parametrize(
    "simulated, kind, word",
    [
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("403", anthropic.PermissionDeniedError, "permission_error"),
        ("404", anthropic.NotFoundError, "not_found_error"),
        ("413", anthropic.ContentTooLargeError, "request_too_large"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("500", anthropic.InternalServerError, "api_error"),
    ],
)
def test_error_of_the_provider(gateway_anthropic, stream, simulated, kind, word):
    error = refusal(gateway_anthropic, stream, kind, headers={"x-simulate": simulated})
    assert (error.status_code, error.type) == (int(simulated), word)


@STREAM
@pytest.mark.parametrize("simulated", ["503", "529"])
def test_overloaded_provider(gateway_anthropic, stream, simulated):
    """Whether as OpenAI's 503 or as Anthropic's 529, with the word that goes with the status."""
    with pytest.raises(anthropic.InternalServerError) as caught:
        request = full({"messages": [user("Say hello")], "stream": stream})
        gateway_anthropic.messages.create(**request, extra_headers={"x-simulate": simulated})
    error = caught.value
    assert type(error) in (anthropic.OverloadedError, anthropic.ServiceUnavailableError) and error.request_id
    assert error.type == "overloaded_error"


@STREAM
def test_key_that_the_provider_refuses(gateway_anthropic, stream):
    """The client's own key is the client's fault; the gateway's key is the gateway's."""
    own = gateway_anthropic.with_options(api_key="sk-own")
    error = refusal(own, stream, anthropic.AuthenticationError, headers={"x-simulate": "401"})
    assert error.type == "authentication_error"
    error = refusal(gateway_anthropic, stream, anthropic.InternalServerError, headers={"x-simulate": "401"})
    assert (error.status_code, error.type) == (502, "api_error")


def test_wait_that_the_provider_asks_for(gateway_anthropic):
    error = refusal(gateway_anthropic, False, anthropic.RateLimitError, headers={"x-simulate": "429,retry-after=7"})
    assert error.response.headers["retry-after"] == "7"


@STREAM
def test_unknown_model(gateway_anthropic, stream):
    error = refusal(gateway_anthropic, stream, anthropic.NotFoundError, model="no-such-model")
    assert error.type == "not_found_error"


@STREAM
def test_what_only_anthropic_has(gateway_anthropic, stream):
    search = {"type": "web_search_20250305", "name": "web_search"}
    error = refusal(gateway_anthropic, stream, anthropic.BadRequestError, tools=[search])
    assert error.type == "invalid_request_error" and "tools" in error.api_message
    servers = {"mcp_servers": [{"type": "url", "url": "https://example.com", "name": "x"}]}
    with pytest.raises(anthropic.BadRequestError) as caught:
        gateway_anthropic.beta.messages.create(**full({"messages": [user("Hm?")], "stream": stream}), **servers)
    assert "mcp_servers" in caught.value.api_message


@STREAM
@pytest.mark.parametrize("thread", [{"type": "create"}, {"type": "continue", "previous_message_id": "msg_1"}], ids=str)
def test_threads_are_refused_so_that_the_sdk_goes_on_without(gateway_anthropic, stream, thread):
    """A conversation that nobody keeps must not be continued. This error makes the SDK send all of it, without threads."""
    with pytest.raises(anthropic.BadRequestError) as caught:
        gateway_anthropic.beta.messages.create(
            **full({"messages": [user("Hm?")], "stream": stream}), thread=thread, betas=["message-threads-2026-08-12"]
        )
    assert caught.value.error_code == "thread_unsupported_request"


def test_missing_max_tokens(gateway_anthropic):
    with pytest.raises(anthropic.BadRequestError) as caught:
        gateway_anthropic.post("/v1/messages", body={"model": GPT, "messages": [user("Hm?")]}, cast_to=object)
    assert caught.value.api_message == "max_tokens: Field required"


def test_error_inside_a_stream(gateway_anthropic):
    stream = gateway_anthropic.messages.create(
        **full({"messages": [user("Count to 9.")]}), stream=True, extra_headers={"x-simulate": "error=5"}
    )
    text = ""
    with pytest.raises(anthropic.APIStatusError) as caught:
        for event in stream:
            text += event.delta.text if event.type == "content_block_delta" else ""
    assert text and "1, 2, 3, 4, 5, 6, 7, 8, 9".startswith(text)
    assert caught.value.type in ("api_error", "overloaded_error")
