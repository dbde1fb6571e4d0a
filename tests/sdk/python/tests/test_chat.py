"""Chat completions and legacy completions beyond the playbook's five cases."""

import asyncio
import enum
import json

import openai
import pydantic
import pytest


def say(content):
    return [{"role": "user", "content": content}]


def tool(name, argument):
    parameters = {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("get_weather", "city")
TIME = tool("get_time", "zone")


def test_stream_without_include_usage_hides_usage(client):
    stream = client.chat.completions.create(model="gpt-4o", messages=say("Count to 5."), stream=True)
    chunks = list(stream)
    for chunk in chunks:
        assert len(chunk.choices) == 1
        assert "usage" not in chunk.model_fields_set
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "1, 2, 3, 4, 5"
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_stream_with_include_usage(client):
    stream = client.chat.completions.create(
        model="gpt-4o", messages=say("Count to 5."), stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage.completion_tokens == 5
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_helper(client, record):
    with client.chat.completions.stream(model="gpt-4o", messages=say("Count to 3.")) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "1, 2, 3"
    record.note("kinds", kinds)


def test_choices_stop_and_max_tokens(client):
    two = client.chat.completions.create(model="gpt-4o", messages=say("Tell me more"), n=2)
    assert [choice.index for choice in two.choices] == [0, 1]
    cut = client.chat.completions.create(model="gpt-4o", messages=say("Count to 9."), max_tokens=2)
    assert cut.choices[0].finish_reason == "length"
    stopped = client.chat.completions.create(model="gpt-4o", messages=say("Count to 9."), stop="4")
    assert "4" not in stopped.choices[0].message.content


def test_tool_call_result_and_answer(client):
    messages = say("Call get_weather for Oslo")
    first = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = first.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert "city" in json.loads(call.function.arguments)
    messages += [first.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    second = client.chat.completions.create(model="gpt-4o", messages=messages, tools=[WEATHER])
    assert "21 degrees" in second.choices[0].message.content


def test_parallel_tool_calls(client):
    reply = client.chat.completions.create(
        model="gpt-4o", messages=say("Call get_weather and get_time"), tools=[WEATHER, TIME]
    )
    calls = reply.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2


def test_parallel_tool_calls_streamed(client):
    messages = say("Call get_weather and get_time")
    with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=[WEATHER, TIME]) as stream:
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert all(len(json.loads(call.function.arguments)) == 1 for call in calls)


def test_forced_and_single_tool(client):
    forced = client.chat.completions.create(
        model="gpt-4o",
        messages=say("anything"),
        tools=[WEATHER, TIME],
        tool_choice={"type": "function", "function": {"name": "get_time"}},
    )
    assert forced.choices[0].message.tool_calls[0].function.name == "get_time"
    single = client.chat.completions.create(
        model="gpt-4o",
        messages=say("Call get_weather and get_time"),
        tools=[WEATHER, TIME],
        parallel_tool_calls=False,
    )
    assert len(single.choices[0].message.tool_calls) == 1


def test_picture(client):
    pixel = (
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk"
        "+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    content = [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": pixel, "detail": "low"}},
    ]
    reply = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": content}])
    assert reply.choices[0].message.content
    assert reply.usage.prompt_tokens > 80


def test_structured_output(client, record):
    class Final(enum.Enum):
        YES = "yes"
        NO = "no"

    class Step(pydantic.BaseModel):
        explanation: str
        output: float

    class Answer(pydantic.BaseModel):
        steps: list[Step]
        final: Final

    reply = client.chat.completions.parse(model="gpt-4o", messages=say("Solve it"), response_format=Answer)
    parsed = reply.choices[0].message.parsed
    assert isinstance(parsed, Answer)
    record.note("parsed", parsed.model_dump(mode="json"))


def test_json_object(client):
    reply = client.chat.completions.create(
        model="gpt-4o", messages=say("Answer in json"), response_format={"type": "json_object"}
    )
    assert isinstance(json.loads(reply.choices[0].message.content), dict)


def test_text_outside_ascii(client):
    text = 'Grüße, 世界 🌍 — "quoted" \\ back\tslash'
    messages = say(f"Return the string {text}")
    whole = client.chat.completions.create(model="gpt-4o", messages=messages)
    assert whole.choices[0].message.content == text
    stream = client.chat.completions.create(model="gpt-4o", messages=messages, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text


def test_reasoning_model(client):
    reply = client.chat.completions.create(
        model="o3-mini", messages=say("Think."), max_completion_tokens=400, reasoning_effort="low"
    )
    assert reply.usage.completion_tokens_details.reasoning_tokens > 0


def test_unknown_fields_reach_the_provider(client):
    reply = client.chat.completions.create(
        model="gpt-4o", messages=say("Say hello"), extra_body={"a_new_field": {"z": 1, "a": [1.0, 1e3]}}
    )
    assert reply.choices[0].finish_reason == "stop"


def test_request_of_1_mb(client):
    reply = client.chat.completions.create(model="gpt-4o", messages=say("word " * 200_000))
    assert reply.usage.prompt_tokens > 200_000


def test_other_models_of_the_playbook(client, record):
    record.compare_only("notes", "the gateway may serve a model of its table under the provider's own name")
    for model in ("gpt-4o-mini", "claude-sonnet-4", "llama-3-70b"):
        reply = client.chat.completions.create(model=model, messages=say("Say hello"))
        assert "hello" in reply.choices[0].message.content.lower()


def test_leaving_a_stream_early(client, record):
    record.compare_only("none", "how much arrived before the break is a matter of time")
    stream = client.chat.completions.create(model="gpt-4o", messages=say("Count to 5000."), stream=True)
    for _ in range(3):
        next(stream)
    stream.close()
    after = client.chat.completions.create(model="gpt-4o", messages=say("Say hello"))
    assert after.choices[0].finish_reason == "stop"


def test_async_client_whole_streamed_and_cancelled(async_client, record):
    record.compare_only("notes", "the requests run side by side, in any order")

    async def run():
        async with async_client as client:
            requests = [client.chat.completions.create(model="gpt-4o", messages=say(f"Count to {n}.")) for n in range(1, 9)]
            whole = [reply.choices[0].message.content for reply in await asyncio.gather(*requests)]
            stream = await client.chat.completions.create(model="gpt-4o", messages=say("Count to 3."), stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            slow = client.chat.completions.create(
                model="gpt-4o", messages=say("Say hello"), extra_headers={"x-simulate": "latency=20s"}
            )
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(slow, 0.2)
            after = await client.chat.completions.create(model="gpt-4o", messages=say("Say hello"))
            return whole, text, after.choices[0].message.content

    whole, text, after = asyncio.run(run())
    assert whole[2] == text == "1, 2, 3"
    assert "hello" in after.lower()
    record.note("whole", whole)


LEGACY = {"model": "gpt-3.5-turbo-instruct", "prompt": "Count to 4.", "max_tokens": 50}


def test_legacy_completion(client):
    reply = client.completions.create(**LEGACY)
    assert reply.object == "text_completion"
    assert "1, 2, 3, 4" in reply.choices[0].text


def test_legacy_completion_streamed(client):
    chunks = list(client.completions.create(**LEGACY, stream=True))
    assert "1, 2, 3, 4" in "".join(chunk.choices[0].text for chunk in chunks)


def test_legacy_completion_streamed_with_usage(client):
    *_, last = client.completions.create(**LEGACY, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.total_tokens > 0


def test_slow_reply_is_a_timeout(client, record):
    record.compare_only("none", "nothing arrives")
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model="gpt-4o", messages=say("Say hello"), timeout=0.2, extra_headers={"x-simulate": "latency=20s"}
        )
