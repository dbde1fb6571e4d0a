use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::order::{check, read};
use super::{step, streamed};

/// Words that the translator knows, so that arbitrary JSON reaches its rare branches.
const NAMES: &[&str] = &[
    "input",
    "instructions",
    "type",
    "role",
    "content",
    "text",
    "image_url",
    "detail",
    "file_data",
    "filename",
    "file_id",
    "input_audio",
    "data",
    "format",
    "output",
    "call_id",
    "name",
    "arguments",
    "encrypted_content",
    "tools",
    "tool_choice",
    "parameters",
    "mode",
    "reasoning",
    "effort",
    "include",
    "stream",
    "metadata",
    "syntax",
    "definition",
    "schema",
    "store",
    "temperature",
    "top_logprobs",
    "refusal",
    "summary",
    "caller",
    "annotations",
    "logprobs",
    "strict",
];
const WORDS: &[&str] = &[
    "message",
    "function_call",
    "custom_tool_call",
    "function_call_output",
    "custom_tool_call_output",
    "reasoning",
    "user",
    "assistant",
    "developer",
    "input_text",
    "output_text",
    "input_image",
    "input_file",
    "input_audio",
    "refusal",
    "function",
    "custom",
    "grammar",
    "json_schema",
    "allowed_tools",
    "auto",
    "required",
    "ccg1.W10=",
    "text",
    "",
    "x",
    "original",
    "reasoning.encrypted_content",
    "item_reference",
    "web_search_call",
];
const REPLY_NAMES: &[&str] = &[
    "id",
    "created",
    "model",
    "choices",
    "index",
    "delta",
    "message",
    "content",
    "reasoning",
    "reasoning_content",
    "thinking_blocks",
    "refusal",
    "annotations",
    "tool_calls",
    "function_call",
    "function",
    "name",
    "arguments",
    "finish_reason",
    "logprobs",
    "usage",
    "prompt_tokens",
    "error",
    "type",
    "text",
    "thinking",
    "signature",
    "url_citation",
    "object",
    "x_groq",
];
const REPLY_WORDS: &[&str] = &[
    "a",
    "b",
    "",
    "stop",
    "length",
    "tool_calls",
    "content_filter",
    "error",
    "thinking",
    "text",
    "url_citation",
    "f",
    "c",
    "{\"input\":\"x\"}",
    "{}",
    "é\n\"",
];

fn values(names: &'static [&'static str], words: &'static [&'static str]) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..3).prop_map(Value::from),
        Just(json!(-1.5)),
        select(words).prop_map(Value::from),
        select(words).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((select(names), inner), 0..5)
                .prop_map(|members| members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()),
        ]
    })
    .boxed()
}

/// An item of a known type, with arbitrary other members.
fn items() -> impl Strategy<Value = Value> {
    let members = prop::collection::vec((select(NAMES), values(NAMES, WORDS)), 0..5);
    (select(WORDS), members).prop_map(|(kind, members)| {
        let mut item =
            json!({"type": kind, "role": "user", "content": "c", "call_id": "1", "name": "f", "arguments": "{}"});
        item["output"] = "o".into();
        item["input"] = "i".into();
        members.into_iter().for_each(|(name, value)| item[name] = value);
        item
    })
}

/// A delta, more or less valid.
fn deltas() -> impl Strategy<Value = Value> {
    let text = || prop::option::weighted(0.3, select(REPLY_WORDS));
    let index = prop::option::of(0_u64..3);
    let call = (index, text(), text(), text()).prop_map(|(index, id, name, arguments)| {
        json!({"index": index, "id": id, "function": {"name": name, "arguments": arguments}})
    });
    let block = json!([{"type": "thinking", "thinking": "t", "signature": "s"}]);
    let blocks = prop::option::weighted(0.2, Just(block));
    let calls = prop::collection::vec(call, 0..3);
    let citation =
        json!([{"type": "url_citation", "url_citation": {"url": "u", "title": "t", "start_index": 0, "end_index": 1}}]);
    let annotations = prop::option::weighted(0.1, Just(citation));
    (text(), text(), text(), blocks, calls, annotations).prop_map(
        |(reasoning, content, refusal, blocks, calls, annotations)| {
            json!({"reasoning_content": reasoning, "content": content, "refusal": refusal, "thinking_blocks": blocks,
            "tool_calls": calls, "annotations": annotations})
        },
    )
}

fn chunks() -> impl Strategy<Value = Value> {
    let finish = prop::option::weighted(0.1, select(&["stop", "length", "tool_calls", "error"][..]));
    let usage = prop::option::weighted(0.2, Just(json!({"prompt_tokens": 1, "completion_tokens": 2})));
    let choice = (deltas(), finish).prop_map(|(delta, finish)| json!([{"delta": delta, "finish_reason": finish}]));
    let choices = prop_oneof![6 => choice, 1 => Just(json!([])), 1 => values(REPLY_NAMES, REPLY_WORDS)];
    (select(REPLY_WORDS), choices, usage)
        .prop_map(|(id, choices, usage)| json!({"id": id, "choices": choices, "usage": usage}))
}

/// A request with a custom tool, a function, and `include` of signed thinking and log probabilities.
fn request() -> Value {
    let tools = json!([{"type": "custom", "name": "c"}, {"type": "function", "name": "f", "parameters": {}}]);
    json!({"input": "Hi", "tools": tools, "include": ["reasoning.encrypted_content", "message.output_text.logprobs"]})
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_translated_or_refused(
        mut body in values(NAMES, WORDS), items in prop::collection::vec(items(), 0..5), tools in values(NAMES, WORDS),
    ) {
        if let Some(body) = body.as_object_mut() {
            body.entry("input").or_insert(items.clone().into());
        }
        for body in [body, json!({"input": items, "tools": [tools.clone()]}), json!({"input": "Hi", "tool_choice": tools, "tools": request()["tools"]})] {
            match step(&body) {
                Ok(step) => {
                    let named: std::collections::HashSet<_> = step.dropped.iter().collect();
                    prop_assert_eq!(named.len(), step.dropped.len());
                    prop_assert!(step.body["messages"].as_array().is_some_and(|all| !all.is_empty()));
                    prop_assert!(step.body["stream"].is_boolean());
                    let reply = br#"{"choices":[{"message":{"content":"x"}}]}"#;
                    let made = step.replies.json(reply).expect("a reply");
                    prop_assert!(serde_json::from_slice::<Value>(&made).is_ok());
                }
                Err(refusal) => prop_assert!(!refusal.param.is_empty() && refusal.message.ends_with('.'), "{:?}", refusal),
            }
        }
    }

    #[test]
    fn any_reply_makes_json_or_nothing(reply in values(REPLY_NAMES, REPLY_WORDS), message in deltas(), bytes in any::<Vec<u8>>()) {
        let step = step(&request()).unwrap_or_else(|_| panic!());
        let whole = json!({"choices": [{"message": message, "finish_reason": "stop"}]});
        prop_assert!(step.replies.json(whole.to_string().as_bytes()).is_some());
        for body in [reply.to_string().into_bytes(), json!({"choices": [{"message": reply}]}).to_string().into_bytes(), bytes] {
            if let Some(made) = step.replies.json(&body) {
                prop_assert!(serde_json::from_slice::<Value>(&made).is_ok());
            }
        }
    }

    #[test]
    fn any_stream_keeps_the_order(
        chunks in prop::collection::vec(prop_oneof![5 => chunks(), 1 => values(REPLY_NAMES, REPLY_WORDS)], 0..8),
        bytes in any::<Vec<u8>>(), done in any::<bool>(),
    ) {
        let step = step(&request()).unwrap_or_else(|_| panic!());
        let mut events: Vec<_> = chunks.iter().map(|chunk| (None, chunk.to_string().into_bytes())).collect();
        events.push((None, bytes));
        if done {
            events.push((None, b"[DONE]".to_vec()));
        }
        let made = read(&streamed(&step, &events));
        prop_assert_eq!(check(&made), Ok(()), "{:#?}", made);
    }
}
