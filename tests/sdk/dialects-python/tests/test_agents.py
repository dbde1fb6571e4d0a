"""OpenAI's Agents SDK: one agent with one tool, over models that are not OpenAI's."""

import asyncio

import agents
import openai
import pytest
from agents import Agent, Runner, function_tool
from conftest import CHAT_ONLY, CLAUDE, GATEWAY

agents.set_tracing_disabled(True)


@pytest.fixture(params=["responses", "chat"])
def kind(request):
    """The API that the agent speaks."""
    return {"responses": agents.OpenAIResponsesModel, "chat": agents.OpenAIChatCompletionsModel}[request.param]


@pytest.fixture(params=[CLAUDE, CHAT_ONLY])
def model(request):
    return request.param


@pytest.fixture(params=["whole", "streamed"])
def run(request, kind, model):
    """Runs a new agent to its end; its last words, and the cities that its tool was asked for."""

    async def go(prompt, **settings):
        asked = []

        @function_tool
        def get_weather(city: str) -> str:
            """Tells the weather.

            Args:
                city: Where.
            """
            asked.append(city)
            return f"21 degrees in {city}"

        async with openai.AsyncOpenAI(base_url=f"{GATEWAY}/v1", max_retries=0, timeout=60) as client:
            agent = Agent(
                name="forecaster",
                instructions="You know the weather.",
                model=kind(model, client),
                tools=[get_weather],
                model_settings=agents.ModelSettings(include_usage=True, **settings),
            )
            if request.param == "whole":
                result = await Runner.run(agent, prompt)
            else:
                result = Runner.run_streamed(agent, prompt)
                seen = [event.type async for event in result.stream_events()]
                assert "raw_response_event" in seen
            return result, asked

    return lambda prompt, **settings: asyncio.run(go(prompt, **settings))


def test_agent_with_a_tool(run):
    result, asked = run("Call get_weather for Oslo")
    assert asked == ["example city"]
    assert result.final_output == "The tool answered: 21 degrees in example city"
    usage = result.context_wrapper.usage
    assert usage.requests == 2
    assert usage.input_tokens > 0 and usage.output_tokens > 0


def test_agent_that_needs_no_tool(run):
    result, asked = run("Count to 3.")
    assert (result.final_output, asked) == ("1, 2, 3", [])


@pytest.mark.parametrize("model", [CLAUDE])
def test_agent_that_reasons(run):
    result, asked = run("Call get_weather for Oslo", reasoning=openai.types.Reasoning(effort="medium"))
    assert asked == ["example city"]
    assert result.final_output == "The tool answered: 21 degrees in example city"
    assert any(item.type == "reasoning_item" for item in result.new_items)
