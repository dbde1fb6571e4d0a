"""The clients of the suite, and what all its files ask of them.

Through the gateway each SDK talks to models that speak another dialect than its own; `direct_…` clients ask the simulated
provider itself, in the model's own dialect. The provider answers the same question in the same way in every dialect, so
what a translation changes shows.
"""

import json
import os
from dataclasses import dataclass, field

import anthropic
import openai
import pytest

GATEWAY = os.environ["OPENAI_BASE"].removesuffix("/v1")
PROVIDER = os.environ["PROVIDER_BASE"].removesuffix("/v1")

# What the client of a translation asks for, and what the provider itself calls it.
CLAUDE = "claude-sonnet-4-5"
GPT = "gpt-4.1"
CHAT_ONLY, CHAT_ONLY_DIRECT = "llama-3-70b", "llama-3.3-70b-versatile"

PROMPTS = ["Count to 12.", "What is the capital of Norway?", 'Return the string Grüße 世界 🌍 "q" \\ x']

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def schema(name):
    """The parameters of a tool with one text."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": f"The {name}."}},
        "required": [name],
        "additionalProperties": False,
    }


TOOLS = {"get_weather": ("Tells the weather.", schema("city")), "get_time": ("Tells the time.", schema("zone"))}


def chat_tools(*names):
    """Tools of Chat Completions. Strict, which the SDK's helpers insist on."""
    return [
        {"type": "function", "function": {"name": n, "description": TOOLS[n][0], "parameters": TOOLS[n][1], "strict": True}}
        for n in names
    ]


def responses_tools(*names):
    return [
        {"type": "function", "name": n, "description": TOOLS[n][0], "parameters": TOOLS[n][1], "strict": True} for n in names
    ]


def messages_tools(*names, **more):
    return [{"name": n, "description": TOOLS[n][0], "input_schema": TOOLS[n][1], **more} for n in names]


def user(content):
    return {"role": "user", "content": content}


@dataclass
class Answer:
    """What a reply says, whichever way it came."""

    text: str
    finish: str
    # (id, name, arguments) of each call; the arguments are what their JSON says.
    calls: list = field(default_factory=list)
    usage: object = None
    reasoning: str = ""
    # What the SDK gives back, for a next request.
    reply: object = None

    def named(self):
        return [(name, arguments) for _, name, arguments in self.calls]


def arguments_of(text):
    """The arguments of a call, which must be one JSON object."""
    value = json.loads(text)
    assert isinstance(value, dict), text
    return value


def message_answer(message):
    """An answer of Anthropic's SDK."""
    blocks = message.content
    return Answer(
        text="".join(block.text for block in blocks if block.type == "text"),
        finish=message.stop_reason,
        calls=[(block.id, block.name, block.input) for block in blocks if block.type == "tool_use"],
        usage=message.usage,
        reasoning="".join(block.thinking for block in blocks if block.type == "thinking"),
        reply=message,
    )


@pytest.fixture(scope="session")
def gateway_openai():
    with openai.OpenAI(base_url=f"{GATEWAY}/v1", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def gateway_anthropic():
    with anthropic.Anthropic(base_url=GATEWAY, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def direct_openai():
    with openai.OpenAI(base_url=f"{PROVIDER}/v1", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def direct_anthropic():
    with anthropic.Anthropic(base_url=PROVIDER, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def claude_says(direct_anthropic):
    """What the Claude model itself says to a request of its own dialect."""

    def ask(**body):
        return message_answer(direct_anthropic.messages.create(**{"model": CLAUDE, "max_tokens": 8192, **body}))

    return ask


@pytest.fixture(scope="session")
def team_token():
    """A token that the gateway made."""
    return os.environ["SDK_TEAM_TOKEN"]


def run_tools(client, model, **more):
    """The loop of Anthropic's SDK: it calls the function and goes on until there is no call."""
    asked = []

    @anthropic.beta_tool
    def get_weather(city: str) -> str:
        """Tells the weather.

        Args:
            city: Where.
        """
        asked.append(city)
        return f"21 degrees in {city}"

    question = [user("Call get_weather for Oslo")]
    runner = client.beta.messages.tool_runner(model=model, max_tokens=2048, messages=question, tools=[get_weather], **more)
    turns = [turn.get_final_message() if more.get("stream") else turn for turn in runner]
    assert asked == ["example city"]
    assert [turn.stop_reason for turn in turns] == ["tool_use", "end_turn"]
    assert turns[-1].content[0].text == "The tool answered: 21 degrees in example city"
    # The second turn was answered with the first in sight.
    assert turns[1].usage.input_tokens > turns[0].usage.input_tokens
