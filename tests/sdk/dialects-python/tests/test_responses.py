"""The Responses API of the `openai` package, over a Claude model and over a provider that has only Chat Completions."""

from typing import Literal

import openai
import pydantic
import pytest
from conftest import CHAT_ONLY, CHAT_ONLY_DIRECT, CLAUDE, PIXEL, PROMPTS, Answer, arguments_of, messages_tools, responses_tools, user


@pytest.fixture(params=[CLAUDE, CHAT_ONLY])
def model(request):
    return request.param


@pytest.fixture
def own_text(model, claude_says, direct_openai):
    """What the model says in its own dialect: its text, and the tokens in and out."""

    def ask(**body):
        if model == CLAUDE:
            own = claude_says(**body)
            return own.text, own.usage.input_tokens, own.usage.output_tokens
        own = direct_openai.chat.completions.create(model=CHAT_ONLY_DIRECT, **body)
        return own.choices[0].message.content, own.usage.prompt_tokens, own.usage.completion_tokens

    return ask


def whole(client, body):
    return client.responses.create(**body)


def streamed(client, body):
    """The response that the last event carries, after checking that the events before it tell the same."""
    events = list(client.responses.create(**body, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] in ("response.completed", "response.incomplete")
    final = events[-1].response
    assert {event.response.id for event in events if hasattr(event, "response")} == {final.id}

    added = [event for event in events if event.type == "response.output_item.added"]
    done = [event for event in events if event.type == "response.output_item.done"]
    assert [event.output_index for event in added] == list(range(len(final.output)))
    assert [event.item.to_dict() for event in sorted(done, key=lambda e: e.output_index)] == [
        item.to_dict() for item in final.output
    ]

    def joined(kind, index):
        return "".join(event.delta for event in events if event.type == kind and event.output_index == index)

    for index, item in enumerate(final.output):
        if item.type == "message":
            assert joined("response.output_text.delta", index) == item.content[0].text
            [end] = [e for e in events if e.type == "response.output_text.done" and e.output_index == index]
            assert end.text == item.content[0].text and end.item_id == item.id
        if item.type == "function_call":
            assert joined("response.function_call_arguments.delta", index) == item.arguments
            [end] = [e for e in events if e.type == "response.function_call_arguments.done" and e.output_index == index]
            assert end.arguments == item.arguments and end.item_id == item.id
    return final


def helper(client, body):
    with client.responses.stream(**body) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text
    return final


@pytest.fixture(params=[whole, streamed, helper], ids=lambda way: way.__name__)
def ask(request, gateway_openai, model):
    """Asks the model through the gateway: whole, as a stream, and with the SDK's own accumulator."""

    def run(**body):
        final = request.param(gateway_openai, {"model": model, **body})
        assert (final.object, final.status, final.error) == ("response", "completed", None)
        assert final.store is True
        assert len({item.id for item in final.output}) == len(final.output)
        return Answer(
            text=final.output_text,
            finish=final.status,
            calls=[
                (item.call_id, item.name, arguments_of(item.arguments))
                for item in final.output
                if item.type == "function_call"
            ],
            usage=final.usage,
            reply=final,
        )

    return run


@pytest.mark.parametrize("prompt", PROMPTS)
def test_text(ask, own_text, prompt):
    answer = ask(input=prompt)
    text, read, written = own_text(messages=[user(prompt)])
    assert answer.text == text != ""
    assert answer.usage.input_tokens == read > 0
    assert answer.usage.output_tokens == written > 0
    assert answer.usage.total_tokens == read + written


def test_instructions_and_history(ask, own_text):
    turns = [user("Say hello"), {"role": "assistant", "content": "Hello."}, user("What did I say first?")]
    answer = ask(instructions="You are brief.", input=turns)
    text, _, _ = own_text(messages=turns)
    assert answer.text == text
    assert answer.usage.input_tokens > ask(input=turns).usage.input_tokens


def test_limit(gateway_openai, model):
    request = {"model": model, "input": "Count to 9.", "max_output_tokens": 20}
    assert whole(gateway_openai, request).status == "completed"
    request["max_output_tokens"] = 2
    for way in (whole, streamed):
        cut = way(gateway_openai, request)
        assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
        assert cut.output_text == "1, 2,"


def test_tool_round_trip(ask):
    tools = responses_tools("get_weather")
    said = [user("Call get_weather for Oslo")]
    first = ask(input=said, tools=tools)
    assert first.named() == [("get_weather", {"city": "example city"})]
    assert first.text == ""
    result = {"type": "function_call_output", "call_id": first.calls[0][0], "output": "21 degrees"}
    second = ask(input=[*said, *(item.to_dict() for item in first.reply.output), result], tools=tools)
    assert (second.text, second.calls) == ("The tool answered: 21 degrees", [])


def test_parallel_tool_calls(ask):
    tools = responses_tools("get_weather", "get_time")
    said = [user("Call get_weather and get_time")]
    first = ask(input=said, tools=tools)
    assert first.named() == [("get_weather", {"city": "example city"}), ("get_time", {"zone": "example zone"})]
    (a, _, _), (b, _, _) = first.calls
    assert a != b
    results = [
        {"type": "function_call_output", "call_id": b, "output": "noon"},
        {"type": "function_call_output", "call_id": a, "output": "21 degrees"},
    ]
    second = ask(input=[*said, *(item.to_dict() for item in first.reply.output), *results], tools=tools)
    assert second.calls == [] and second.text.startswith("The tool answered: ")
    one = ask(input=said, tools=tools, parallel_tool_calls=False)
    assert one.named() == [("get_weather", {"city": "example city"})]


def test_forced_tool(ask):
    tools = responses_tools("get_weather", "get_time")
    forced = ask(input="Anything", tools=tools, tool_choice={"type": "function", "name": "get_time"})
    assert forced.named() == [("get_time", {"zone": "example zone"})]
    assert ask(input="Call get_time", tools=tools, tool_choice="none").calls == []


def test_picture(ask):
    text = {"type": "input_text", "text": "What is in the picture?"}
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"}
    seen = ask(input=[user([text, image])])
    unseen = ask(input=[user([text])])
    assert seen.text == unseen.text != ""
    assert seen.usage.input_tokens == unseen.usage.input_tokens + 85


class Step(pydantic.BaseModel):
    explanation: str
    output: float


class Solution(pydantic.BaseModel):
    steps: list[Step]
    final: Literal["yes", "no"]
    certain: bool


SOLUTION = Solution(steps=[Step(explanation="example explanation", output=1.5)], final="yes", certain=True)


def test_structured_output_parsed(gateway_openai, model):
    reply = gateway_openai.responses.parse(model=model, input="Solve it", text_format=Solution)
    assert reply.output_parsed == SOLUTION
    assert reply.text.format.type == "json_schema" and reply.text.format.name == "Solution"


def test_structured_output_streamed(gateway_openai, model):
    with gateway_openai.responses.stream(model=model, input="Solve it", text_format=Solution) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds.count("response.output_text.delta") > 1
    assert final.output_parsed == SOLUTION


@pytest.mark.parametrize("way", [whole, streamed, helper], ids=lambda way: way.__name__)
@pytest.mark.parametrize("echo", [True, False], ids=["with its reasoning", "without"])
def test_reasoning_in_a_tool_loop(gateway_openai, claude_says, way, echo):
    """Claude's signed thinking travels in the reasoning item, and a client that drops it gets no error."""
    said = [user("Call get_weather for Oslo")]
    request = {
        "model": CLAUDE,
        "tools": responses_tools("get_weather"),
        "reasoning": {"effort": "medium", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    first = way(gateway_openai, {**request, "input": said})
    thinking = {"type": "enabled", "budget_tokens": 2048}
    own = claude_says(messages=said, tools=messages_tools("get_weather", strict=True), thinking=thinking)
    assert [item.type for item in first.output] == ["reasoning", "function_call"]
    assert first.output[0].summary[0].text == own.reasoning != ""
    assert first.output[0].encrypted_content
    assert first.usage.output_tokens_details.reasoning_tokens == own.usage.output_tokens_details.thinking_tokens > 0

    kept = [item.to_dict() for item in first.output if echo or item.type != "reasoning"]
    result = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "21 degrees"}
    second = way(gateway_openai, {**request, "input": [*said, *kept, result]})
    assert second.output_text == "The tool answered: 21 degrees"
    assert [item.type for item in second.output] == (["reasoning", "message"] if echo else ["message"])


STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def refusal(client, model, stream, kind, headers=None, **body):
    with pytest.raises(kind) as caught:
        request = {"model": model, "input": "Say hello", "stream": stream, **body}
        list(client.responses.create(**request, extra_headers=headers))
    assert type(caught.value) is kind
    assert caught.value.request_id and caught.value.message
    return caught.value


@STREAM
@pytest.mark.parametrize(
    "param, value",
    [("conversation", "conv_1"), ("prompt", {"id": "pmpt_1"}), ("background", True)],
)
def test_what_needs_a_memory_is_refused(gateway_openai, model, stream, param, value):
    error = refusal(gateway_openai, model, stream, openai.BadRequestError, **{param: value})
    assert (error.status_code, error.param, error.code) == (400, param, "unsupported_parameter")


@STREAM
def test_an_earlier_response_that_is_not_kept(gateway_openai, model, stream):
    error = refusal(gateway_openai, model, stream, openai.BadRequestError, previous_response_id="resp_1")
    assert (error.param, error.code) == ("previous_response_id", "previous_response_not_found")


@STREAM
def test_a_conversation_goes_on_from_its_last_response(gateway_openai, model, stream):
    """By the response's id and by those of its items; what the provider counts shows that it gets all of it."""

    def ask(**body):
        body = {"model": model, "max_output_tokens": 50, **body}
        if not stream:
            return gateway_openai.responses.create(**body)
        *_, last = gateway_openai.responses.create(**body, stream=True)
        return last.response

    first = ask(input="Count to 12.")
    assert first.store and gateway_openai.responses.retrieve(first.id).output == first.output
    by_value = ask(
        input=[{"role": "user", "content": "Count to 12."}, *(item.to_dict() for item in first.output), user("On.")],
        store=False,
    )
    by_response = ask(input=[user("On.")], previous_response_id=first.id)
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    by_items = ask(input=[{"role": "user", "content": "Count to 12."}, *references, user("On.")])
    assert by_response.previous_response_id == first.id
    assert by_value.usage.input_tokens == by_response.usage.input_tokens == by_items.usage.input_tokens
    assert by_value.output_text == by_response.output_text == by_items.output_text
    listed = gateway_openai.responses.input_items.list(by_response.id, order="asc", limit=2)
    assert [item.type for item in listed][0] == "message"
    gateway_openai.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError):
        gateway_openai.responses.create(model=model, input="x", previous_response_id=first.id)


@STREAM
@pytest.mark.parametrize(
    "simulated, kind, status",
    [
        ("400", openai.BadRequestError, 400),
        ("403", openai.PermissionDeniedError, 403),
        ("429", openai.RateLimitError, 429),
        ("500", openai.InternalServerError, 500),
        ("529", openai.InternalServerError, 503),
    ],
)
def test_error_of_the_provider(gateway_openai, model, stream, simulated, kind, status):
    error = refusal(gateway_openai, model, stream, kind, headers={"x-simulate": simulated})
    assert error.status_code == status


def test_error_inside_a_stream(gateway_openai, model):
    """As OpenAI does it: an event `error`, which the SDK raises, or `response.failed`."""
    stream = gateway_openai.responses.create(
        model=model, input="Count to 9.", stream=True, extra_headers={"x-simulate": "error=7"}
    )
    text, failed = "", None
    try:
        for event in stream:
            text += event.delta if event.type == "response.output_text.delta" else ""
            failed = event if event.type in ("response.failed", "error") else failed
            assert event.type != "response.completed"
    except openai.APIError as error:
        failed = error
    assert failed is not None
    assert text and "1, 2, 3, 4, 5, 6, 7, 8, 9".startswith(text)
