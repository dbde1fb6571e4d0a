"""The endpoints beside chat: models, embeddings, moderations, responses, files and audio."""

import base64
import io
import struct

PLAYBOOK = {"gpt-4o", "gpt-4o-mini", "o3-mini", "text-embedding-3-small", "claude-sonnet-4", "llama-3-70b"}


def test_models(client, record):
    record.compare_only("notes", "a gateway lists its own routes")
    models = list(client.models.list())
    assert PLAYBOOK <= {model.id for model in models}
    record.note("objects", sorted({model.object for model in models}))
    record.note("keys", sorted({key for model in models for key in model.to_dict()}))


def test_one_model(client, record):
    record.compare_only("notes", "a gateway answers from its own routes")
    model = client.models.retrieve("gpt-4o")
    assert (model.id, model.object, model.owned_by) == ("gpt-4o", "model", "openai")
    record.note("model", model.to_dict())


def test_embeddings_float_and_base64(client):
    request = {"model": "text-embedding-3-small", "input": "hello world"}
    packed = client.embeddings.create(**request).data[0].embedding
    floats = client.embeddings.create(**request, encoding_format="float").data[0].embedding
    raw = client.embeddings.create(**request, encoding_format="base64").data[0].embedding
    assert len(packed) == len(floats) == 1536
    assert all(abs(a - b) < 1e-5 for a, b in zip(packed, floats))
    assert list(struct.unpack("<1536f", base64.b64decode(raw))) == packed


def test_embeddings_of_several_inputs(client):
    reply = client.embeddings.create(model="text-embedding-3-small", input=["one", "two", "three"], dimensions=256)
    assert [item.index for item in reply.data] == [0, 1, 2]
    assert len(reply.data[0].embedding) == 256


def test_moderations(client):
    reply = client.moderations.create(model="omni-moderation-latest", input=["I love you", "I will attack you"])
    assert [result.flagged for result in reply.results] == [False, True]
    assert reply.results[1].categories.violence


def test_response(client):
    reply = client.responses.create(model="gpt-4o", instructions="Be brief", input="Count to 3.")
    assert reply.output_text == "1, 2, 3"
    assert reply.status == "completed"
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


def test_response_streamed(client):
    events = list(client.responses.create(model="gpt-4o", input="Count to 3.", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "1, 2, 3"
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage.output_tokens == 3


def test_response_cut(client):
    reply = client.responses.create(model="gpt-4o", input="Count to 9.", max_output_tokens=2)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"


def test_response_with_a_function(client):
    parameters = {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}
    tools = [{"type": "function", "name": "get_time", "strict": False, "parameters": parameters}]
    first = client.responses.create(model="gpt-4o", input="Call get_time", tools=tools)
    (call,) = first.output
    assert call.type == "function_call"
    conversation = [
        {"role": "user", "content": "Call get_time"},
        call,
        {"type": "function_call_output", "call_id": call.call_id, "output": "noon"},
    ]
    second = client.responses.create(model="gpt-4o", tools=tools, input=conversation)
    assert "noon" in second.output_text


def test_file(client):
    content = b"line\n" * 50_000
    uploaded = client.files.create(file=("a.jsonl", io.BytesIO(content)), purpose="batch")
    assert uploaded.filename == "a.jsonl"
    assert uploaded.bytes > len(content)
    assert client.files.retrieve(uploaded.id).id == uploaded.id
    assert list(client.files.list()) == []
    assert client.files.delete(uploaded.id).deleted


def test_binary_content(client):
    content = client.files.content("file-100000-0123456789ab").read()
    assert content == bytes(i % 251 for i in range(100_000))


def test_audio(client):
    reply = client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", io.BytesIO(b"\1" * 100_000)))
    assert "bytes" in reply.text
