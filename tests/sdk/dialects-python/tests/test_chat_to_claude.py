"""Chat Completions of the `openai` package, answered by a Claude model."""

from typing import Literal

import openai
import pydantic
import pytest
from conftest import CLAUDE, PIXEL, PROMPTS, Answer, arguments_of, chat_tools, messages_tools, user


def whole(client, body):
    return client.chat.completions.create(**body)


def streamed(client, body):
    """Assembles the chunks by hand, and checks their order on the way."""
    chunks = list(client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}))
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    last = chunks.pop()
    assert last.choices == [] and last.usage is not None
    assert all(len(chunk.choices) == 1 and chunk.usage is None for chunk in chunks)
    choices = [chunk.choices[0] for chunk in chunks]
    assert choices[0].delta.role == "assistant"
    assert [choice.finish_reason is not None for choice in choices] == [False] * (len(choices) - 1) + [True]
    calls = {}
    for choice in choices:
        for part in choice.delta.tool_calls or []:
            if part.index not in calls:
                assert part.id and part.type == "function" and part.function.name
                calls[part.index] = [part.id, part.function.name, ""]
            calls[part.index][2] += part.function.arguments or ""
    assert list(calls) == list(range(len(calls)))
    extras = [choice.delta.model_extra for choice in choices]
    thinking = [block for extra in extras for block in extra.get("thinking_blocks") or []]
    message = {"role": "assistant", "content": "".join(choice.delta.content or "" for choice in choices)}
    if calls:
        message["tool_calls"] = [
            {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls.values()
        ]
    if thinking:
        message["thinking_blocks"] = thinking
    return Answer(
        text=message["content"],
        finish=choices[-1].finish_reason,
        calls=[(id, name, arguments_of(arguments)) for id, name, arguments in calls.values()],
        usage=last.usage,
        reasoning="".join(extra.get("reasoning_content") or "" for extra in extras),
        reply=message,
    )


def helper(client, body):
    try:
        with client.chat.completions.stream(**body, stream_options={"include_usage": True}) as stream:
            events = [event.type for event in stream]
            final = stream.get_final_completion()
    except openai.LengthFinishReasonError as cut:
        # The SDK's way to say that an answer was cut.
        return cut.completion
    assert "chunk" in events
    assert ("content.done" in events) == bool(final.choices[0].message.content)
    assert events.count("tool_calls.function.arguments.done") == len(final.choices[0].message.tool_calls or [])
    return final


@pytest.fixture(params=[whole, streamed, helper], ids=lambda way: way.__name__)
def ask(request, gateway_openai):
    """Asks the Claude model through the gateway: whole, as a stream, and with the SDK's own accumulator."""

    def run(**body):
        reply = request.param(gateway_openai, {"model": CLAUDE, **body})
        if isinstance(reply, Answer):
            return reply
        [choice] = reply.choices
        message = choice.message
        assert reply.object == "chat.completion" and reply.model == body.get("model", CLAUDE) and message.role == "assistant"
        return Answer(
            text=message.content or "",
            finish=choice.finish_reason,
            calls=[(c.id, c.function.name, arguments_of(c.function.arguments)) for c in message.tool_calls or []],
            usage=reply.usage,
            reasoning=(message.model_extra or {}).get("reasoning_content") or "",
            reply=message.to_dict(),
        )

    run.way = request.param
    return run


def same_usage(answer, own):
    assert answer.usage.prompt_tokens == own.usage.input_tokens > 0
    assert answer.usage.completion_tokens == own.usage.output_tokens > 0
    assert answer.usage.total_tokens == own.usage.input_tokens + own.usage.output_tokens


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text(ask, claude_says, prompt):
    answer, own = ask(messages=[user(prompt)]), claude_says(messages=[user(prompt)])
    assert answer.text == own.text != ""
    assert (answer.finish, answer.calls) == ("stop", [])
    same_usage(answer, own)


def test_system_and_history(ask, claude_says):
    turns = [user("Say hello"), {"role": "assistant", "content": "Hello."}, user("What did I say first?")]
    answer = ask(messages=[{"role": "system", "content": "You are brief."}, *turns])
    own = claude_says(system="You are brief.", messages=turns)
    assert answer.text == own.text
    same_usage(answer, own)


def test_limit_and_stop(ask):
    cut = ask(messages=[user("Count to 9.")], max_tokens=2)
    assert (cut.text, cut.finish, cut.usage.completion_tokens) == ("1, 2,", "length", 2)
    cut = ask(messages=[user("Count to 9.")], max_completion_tokens=3)
    assert (cut.text, cut.finish) == ("1, 2, 3,", "length")
    stopped = ask(messages=[user("Count to 9.")], stop=["4"])
    assert (stopped.text, stopped.finish) == ("1, 2, 3, ", "stop")


def test_stream_without_include_usage(gateway_openai):
    chunks = list(gateway_openai.chat.completions.create(model=CLAUDE, messages=[user("Count to 5.")], stream=True))
    assert all(len(chunk.choices) == 1 and "usage" not in chunk.to_dict() for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "1, 2, 3, 4, 5"


def test_tool_round_trip(ask, claude_says):
    messages = [user("Call get_weather for Oslo")]
    first = ask(messages=messages, tools=chat_tools("get_weather"))
    own = claude_says(messages=messages, tools=messages_tools("get_weather", strict=True))
    assert first.finish == "tool_calls" and own.finish == "tool_use"
    assert first.named() == own.named() == [("get_weather", {"city": "example city"})]
    assert first.text == ""
    same_usage(first, own)

    [(id, _, _)] = first.calls
    result = {"role": "tool", "tool_call_id": id, "content": "21 degrees"}
    second = ask(messages=[*messages, first.reply, result], tools=chat_tools("get_weather"))
    assert (second.text, second.finish) == ("The tool answered: 21 degrees", "stop")


def test_parallel_tool_calls(ask, claude_says):
    messages = [user("Call get_weather and get_time")]
    tools = chat_tools("get_weather", "get_time")
    first = ask(messages=messages, tools=tools)
    own = claude_says(messages=messages, tools=messages_tools("get_weather", "get_time", strict=True))
    assert first.named() == own.named()
    assert [name for name, _ in first.named()] == ["get_weather", "get_time"]
    assert first.finish == "tool_calls"
    (a, _, _), (b, _, _) = first.calls
    assert a != b
    # Results in the other order, each as a message of its own.
    results = [
        {"role": "tool", "tool_call_id": b, "content": "noon"},
        {"role": "tool", "tool_call_id": a, "content": "21 degrees"},
    ]
    second = ask(messages=[*messages, first.reply, *results], tools=tools)
    assert second.finish == "stop"
    assert "noon" in second.text and "21 degrees" in second.text


def test_one_call_at_a_time_and_a_forced_tool(ask):
    tools = chat_tools("get_weather", "get_time")
    one = ask(messages=[user("Call get_weather and get_time")], tools=tools, parallel_tool_calls=False)
    assert [name for name, _ in one.named()] == ["get_weather"]
    choice = {"type": "function", "function": {"name": "get_time"}}
    forced = ask(messages=[user("Anything")], tools=tools, tool_choice=choice)
    assert forced.named() == [("get_time", {"zone": "example zone"})]
    none = ask(messages=[user("Call get_weather")], tools=tools, tool_choice="none")
    assert none.calls == [] and none.text


def test_picture(ask, claude_says):
    url = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    text = {"type": "text", "text": "What is in the picture?"}
    answer, own = ask(messages=[user([text, url])]), claude_says(messages=[user([text, image])])
    assert answer.text == own.text
    assert answer.usage.prompt_tokens > 85
    same_usage(answer, own)


class Step(pydantic.BaseModel):
    explanation: str
    output: float


class Solution(pydantic.BaseModel):
    steps: list[Step]
    final: Literal["yes", "no"]
    certain: bool


def own_solution(direct_anthropic):
    return direct_anthropic.messages.parse(
        model=CLAUDE, max_tokens=1024, messages=[user("Solve it")], output_format=Solution
    ).parsed_output


def test_structured_output_parsed(gateway_openai, direct_anthropic):
    reply = gateway_openai.chat.completions.parse(model=CLAUDE, messages=[user("Solve it")], response_format=Solution)
    assert isinstance(reply.choices[0].message.parsed, Solution)
    assert reply.choices[0].message.parsed == own_solution(direct_anthropic)
    assert reply.choices[0].finish_reason == "stop"


def test_structured_output_streamed(gateway_openai, direct_anthropic):
    request = {"model": CLAUDE, "messages": [user("Solve it")], "response_format": Solution}
    with gateway_openai.chat.completions.stream(**request) as stream:
        deltas = [event for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(deltas) > 1
    assert final.choices[0].message.parsed == own_solution(direct_anthropic)


def test_structured_output_of_a_model_without_schemas(ask):
    """Claude 4.0 gives such an answer as the input of a tool; the client sees text."""
    form = {"name": "report", "schema": chat_tools("get_weather")[0]["function"]["parameters"], "strict": True}
    answer = ask(
        model="claude-sonnet-4-0",
        messages=[user("Report")],
        response_format={"type": "json_schema", "json_schema": form},
    )
    assert arguments_of(answer.text) == {"city": "example city"}
    assert (answer.finish, answer.calls) == ("stop", [])


@pytest.mark.parametrize("echo", ["all", "openai fields only"])
def test_reasoning_in_a_tool_loop(ask, claude_says, echo):
    """Claude wants its signed thinking back in a tool loop; a client that loses it must not get an error."""
    messages, tools = [user("Call get_weather for Oslo")], chat_tools("get_weather")
    first = ask(messages=messages, tools=tools, reasoning_effort="medium", max_completion_tokens=8192)
    thinking = {"type": "enabled", "budget_tokens": 2048}
    own = claude_says(messages=messages, tools=messages_tools("get_weather", strict=True), thinking=thinking)
    assert first.reasoning == own.reasoning != ""
    assert first.named() == own.named() == [("get_weather", {"city": "example city"})]
    same_usage(first, own)
    assert first.usage.completion_tokens_details.reasoning_tokens == own.usage.output_tokens_details.thinking_tokens > 0

    own_fields = ("role", "content", "tool_calls")
    said = {key: value for key, value in first.reply.items() if echo == "all" or key in own_fields}
    messages += [said, {"role": "tool", "tool_call_id": first.calls[0][0], "content": "21 degrees"}]
    second = ask(messages=messages, tools=tools, reasoning_effort="medium", max_completion_tokens=8192)
    assert (second.text, second.finish) == ("The tool answered: 21 degrees", "stop")
    # Without its thinking the turn that is open cannot go on thinking.
    assert ("The tool has answered" in second.reasoning) == (echo == "all")

    messages += [{"role": "assistant", "content": second.text}, user("Count to 3.")]
    third = ask(messages=messages, tools=tools, reasoning_effort="medium", max_completion_tokens=8192)
    assert third.text == "1, 2, 3"
    assert third.reasoning == 'The user says "Count to 3.". I will answer.'


def test_what_is_left_out_is_named(gateway_openai):
    raw = gateway_openai.chat.completions.with_raw_response.create(
        model=CLAUDE, messages=[user("Count to 3.")], seed=7, logit_bias={"50256": -100}
    )
    assert {word.strip() for word in raw.headers["x-chittycan-dropped"].split(",")} == {"seed", "logit_bias"}
    assert raw.parse().choices[0].message.content == "1, 2, 3"
    assert raw.request_id


def refusal(client, stream, kind, headers=None, **body):
    with pytest.raises(kind) as caught:
        reply = client.chat.completions.create(
            **{"model": CLAUDE, "messages": [user("Say hello")], "stream": stream, **body}, extra_headers=headers
        )
        list(reply)
    assert type(caught.value) is kind
    assert caught.value.request_id
    assert set(caught.value.body) >= {"message", "type", "param", "code"}
    return caught.value


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


@STREAM
@pytest.mark.parametrize("param, value", [("n", 2), ("logprobs", True), ("modalities", ["text", "audio"])])
def test_refused_parameter(gateway_openai, stream, param, value):
    error = refusal(gateway_openai, stream, openai.BadRequestError, **{param: value})
    assert (error.status_code, error.param, error.code) == (400, param, "unsupported_parameter")
    assert error.type == "invalid_request_error" and error.message


@STREAM
@pytest.mark.parametrize(
    "simulated, kind, status, code",
    [
        ("400", openai.BadRequestError, 400, None),
        ("403", openai.PermissionDeniedError, 403, "permission_denied"),
        ("404", openai.NotFoundError, 404, "model_not_found"),
        ("429", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("500", openai.InternalServerError, 500, None),
        ("529", openai.InternalServerError, 503, "overloaded"),
    ],
)
def test_error_of_the_provider(gateway_openai, stream, simulated, kind, status, code):
    error = refusal(gateway_openai, stream, kind, headers={"x-simulate": simulated})
    assert (error.status_code, error.code) == (status, code)
    assert error.message


@STREAM
def test_key_that_the_provider_refuses(gateway_openai, stream):
    """The client's own key is the client's fault; the gateway's key is the gateway's."""
    own = gateway_openai.with_options(api_key="sk-ant-own")
    error = refusal(own, stream, openai.AuthenticationError, headers={"x-simulate": "401"})
    assert (error.status_code, error.code) == (401, "invalid_api_key")
    assert refusal(gateway_openai, stream, openai.InternalServerError, headers={"x-simulate": "401"}).status_code == 502


def test_wait_that_the_provider_asks_for(gateway_openai):
    error = refusal(gateway_openai, False, openai.RateLimitError, headers={"x-simulate": "429,retry-after=7"})
    assert error.response.headers["retry-after"] == "7"


def test_error_inside_a_stream(gateway_openai):
    stream = gateway_openai.chat.completions.create(
        model=CLAUDE, messages=[user("Count to 9.")], stream=True, extra_headers={"x-simulate": "error=7"}
    )
    text = ""
    with pytest.raises(openai.APIError) as caught:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text and "1, 2, 3, 4, 5, 6, 7, 8, 9".startswith(text)
    assert caught.value.code == "overloaded"
