"""The playbook's five parity cases, said in Python."""

import openai
import pytest


def test_non_stream_completion(client):
    reply = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Say hello in 3 words."}], temperature=0
    )
    assert reply.id.startswith("chatcmpl-")
    assert reply.object == "chat.completion"
    assert reply.created > 0
    assert reply.model
    assert len(reply.choices) == 1
    assert reply.choices[0].message.role == "assistant"
    assert "hello" in reply.choices[0].message.content.lower()
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.prompt_tokens > 0
    assert reply.usage.completion_tokens > 0
    assert reply.usage.total_tokens > 0


def test_streaming(client):
    stream = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Count to 3."}], stream=True
    )
    deltas = 0
    content = ""
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        assert chunk.id
        assert len(chunk.choices) == 1
        if chunk.choices[0].delta.content:
            content += chunk.choices[0].delta.content
            deltas += 1
    assert deltas > 0
    assert content


def test_embeddings(client):
    reply = client.embeddings.create(model="text-embedding-3-small", input="hello world")
    assert reply.object == "list"
    assert len(reply.data) == 1
    assert reply.data[0].object == "embedding"
    assert len(reply.data[0].embedding) > 100
    assert reply.data[0].index == 0
    assert reply.usage.prompt_tokens > 0
    assert reply.usage.total_tokens > 0


def test_error_handling(client, record):
    record.compare_only("notes", "a gateway without a route for the model answers itself")
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="invalid-model-name", messages=[{"role": "user", "content": "test"}])
    assert caught.value.code == "model_not_found"


def test_temperature_and_parameters(client):
    reply = client.chat.completions.create(
        model="gpt-4o",
        messages=[{"role": "user", "content": "Test message"}],
        temperature=0.5,
        max_tokens=50,
        top_p=0.9,
        frequency_penalty=0.1,
        presence_penalty=0.1,
    )
    assert reply.choices[0].message.content
