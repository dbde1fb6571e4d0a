//! Every request that is translated for Anthropic passes one that is as strict as Anthropic; and what goes there and back means
//! the same.

use std::collections::BTreeMap;

use chittycan::{
    dialect::{Model, from_messages, to_anthropic},
    types::PromptCaching,
};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use simulator::{Simulated, SimulatedConfig};

const MODEL: &str = "claude-sonnet-4-5";

fn model(name: &str) -> Model<'_> {
    Model {
        name,
        max_output_tokens: Some(64_000),
        default_max_tokens: None,
        context: None,
        prompt_caching: PromptCaching::Auto,
    }
}

struct Strict {
    simulated: Simulated,
    client: reqwest::Client,
}

impl Strict {
    async fn start() -> Self {
        let simulated = Simulated::bind("127.0.0.1:0".parse().unwrap(), SimulatedConfig::instant()).await.unwrap();
        Self { simulated, client: reqwest::Client::new() }
    }

    /// What it finds wrong with a request.
    async fn complaint(&self, body: &Value) -> Option<String> {
        let url = format!("http://{}/v1/messages", self.simulated.addr());
        let request = self.client.post(url).header("x-api-key", "k").header("anthropic-version", "2023-06-01");
        let reply = request.body(body.to_string()).send().await.unwrap();
        let status = reply.status();
        let text = reply.text().await.unwrap();
        (status != 200).then_some(text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_request_passes() {
    let strict = Strict::start().await;
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("../../crates/wire/src/dialect/to_anthropic/golden/requests.json")).unwrap();
    let (mut passed, mut faults) = (0, Vec::new());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        // Of signatures it knows its own only.
        let text = case["in"].to_string().replace(r#""signature":"sig""#, r#""signature":"sig_x""#);
        let mut chat: Value = serde_json::from_str(&text.replace(r#""data":"x""#, r#""data":"sig_x""#)).unwrap();
        let Some(object) = chat.as_object_mut() else { continue };
        object.entry("messages").or_insert_with(|| json!([{"role": "user", "content": "Hi"}]));
        let target = Model {
            max_output_tokens: case["max_output_tokens"].as_u64().or(Some(64_000)),
            default_max_tokens: case["default_max_tokens"].as_u64(),
            prompt_caching: serde_json::from_value(case["prompt_caching"].clone()).unwrap_or_default(),
            ..model(case["model"].as_str().unwrap_or(MODEL))
        };
        let Ok(mut step) = to_anthropic::request(&chat, &target) else { continue };
        if !target.name.starts_with("claude") {
            // A deployment's name, which counts as that of the newest model.
            step.body["model"] = "claude-opus-5-5".into();
        }
        match strict.complaint(&step.body).await {
            None => passed += 1,
            Some(complaint) => faults.push(format!("{name}: {complaint}\n  {}", step.body)),
        }
    }
    assert!(faults.is_empty(), "{} of {} refused:\n{}", faults.len(), passed + faults.len(), faults.join("\n"));
    assert!(passed > 100, "only {passed} cases");
}

fn text() -> impl Strategy<Value = String> {
    "[a-zA-Zäöü\u{1F600}\"\\\\\n {}0-9]{0,12}x"
}

/// One part of a user's message.
fn part() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => text().prop_map(|text| json!({"type": "text", "text": text})),
        1 => Just(json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg=="}})),
        1 => Just(json!({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}})),
    ]
}

fn question() -> impl Strategy<Value = Value> {
    prop_oneof![text().prop_map(Value::from), prop::collection::vec(part(), 1..4).prop_map(Value::from)]
        .prop_map(|content| json!({"role": "user", "content": content}))
}

/// A turn of the assistant that calls nothing or several tools at once, with their results.
fn turn() -> impl Strategy<Value = Vec<Value>> {
    let call = (select(vec!["get_weather", "find"]), text(), text());
    (text(), prop::collection::vec(call, 0..4), any::<u32>()).prop_map(|(said, calls, seed)| {
        let id = |index: usize| format!("call_{seed:x}_{index}");
        if calls.is_empty() {
            return vec![json!({"role": "assistant", "content": said})];
        }
        let called = calls.iter().enumerate().map(|(index, (name, argument, _))| {
            let arguments = json!({"a": argument}).to_string();
            json!({"id": id(index), "type": "function", "function": {"name": name, "arguments": arguments}})
        });
        let content = if seed % 2 == 0 { Value::Null } else { said.into() };
        let mut messages =
            vec![json!({"role": "assistant", "content": content, "tool_calls": called.collect::<Vec<_>>()})];
        messages.extend(
            calls
                .iter()
                .enumerate()
                .map(|(index, (_, _, result))| json!({"role": "tool", "tool_call_id": id(index), "content": result})),
        );
        messages
    })
}

/// A request that a client of OpenAI's could send.
fn chat() -> impl Strategy<Value = Value> {
    let tool = |name: &str| {
        json!({"type": "function", "function": {"name": name, "description": "Does it.", "parameters":
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}}})
    };
    let choice = select(vec![
        Value::Null,
        "auto".into(),
        "none".into(),
        "required".into(),
        json!({"type": "function", "function": {"name": "find"}}),
    ]);
    let parameters = (
        prop::option::of(select(vec![0.0, 0.5, 1.0])),
        prop::option::of(select(vec![1u64, 1000, 5000])),
        prop::option::of(select(vec!["low", "high"])),
        prop::option::of(any::<bool>()),
        prop::option::of(select(vec![json!("END"), json!(["a", "b"])])),
    );
    let conversation = (prop::option::of(text()), prop::collection::vec((question(), turn()), 0..4), question());
    (conversation, choice, parameters, any::<bool>()).prop_map(
        move |((system, turns, last), choice, (temperature, max, effort, parallel, stop), stream)| {
            let mut messages: Vec<Value> =
                system.into_iter().map(|text| json!({"role": "system", "content": text})).collect();
            for (question, turn) in turns {
                messages.push(question);
                messages.extend(turn);
            }
            messages.push(last);
            json!({
                "model": "m", "messages": messages, "tools": [tool("get_weather"), tool("find")], "tool_choice": choice,
                "temperature": temperature, "max_completion_tokens": max, "reasoning_effort": effort,
                "parallel_tool_calls": parallel, "stop": stop, "stream": stream, "user": "team-7",
                // In half of the cases.
                "prompt_cache_key": stream.then_some("k"),
            })
        },
    )
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn whatever_a_client_of_openais_asks_passes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let strict = runtime.block_on(Strict::start());
    let names =
        select(vec![MODEL, "claude-opus-4-8", "claude-3-5-haiku-latest", "claude-sonnet-4-0", "claude-opus-4-6"]);
    runner(400)
        .run(&(chat(), names), |(chat, name)| {
            let step = to_anthropic::request(&chat, &model(name))
                .map_err(|refusal| TestCaseError::fail(format!("{}: {}", refusal.param, refusal.message)))?;
            let complaint = runtime.block_on(strict.complaint(&step.body));
            prop_assert_eq!(complaint, None, "{}", step.body);
            Ok(())
        })
        .unwrap();
}

/// What a conversation says, free of the ways to say it: who, what kind, what.
fn meaning(chat: &Value) -> Vec<(String, String, String)> {
    let mut said: Vec<(String, String, String)> = Vec::new();
    for message in chat["messages"].as_array().unwrap() {
        let role = message["role"].as_str().unwrap().to_owned();
        let who = match message["tool_call_id"].as_str() {
            Some(id) => format!("{role} {id}"),
            None => role,
        };
        let mut say = |kind: &str, what: String| said.push((who.clone(), kind.to_owned(), what));
        match &message["content"] {
            Value::String(text) => say("text", text.clone()),
            Value::Array(parts) => {
                for part in parts {
                    match part["type"].as_str().unwrap() {
                        "text" => say("text", part["text"].as_str().unwrap().to_owned()),
                        kind => say(kind, part["image_url"]["url"].as_str().unwrap().to_owned()),
                    }
                }
            }
            _ => {}
        }
        for call in message["tool_calls"].as_array().into_iter().flatten() {
            let arguments: BTreeMap<String, Value> =
                serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
            say("call", format!("{} {} {arguments:?}", call["id"], call["function"]["name"]));
        }
    }
    said
}

#[test]
fn there_and_back_means_the_same() {
    runner(600)
        .run(&chat(), |chat| {
            let there = to_anthropic::request(&chat, &model(MODEL)).unwrap();
            let back = from_messages::request(&there.body, &model("gpt-4o")).unwrap().body;
            prop_assert_eq!(meaning(&chat), meaning(&back), "{}\n{}", chat, there.body);
            prop_assert_eq!(&chat["tools"], &back["tools"]);
            prop_assert_eq!(&chat["stream"], &json!(back["stream"] == true));
            let choice = |chat: &Value| match &chat["tool_choice"] {
                Value::Null => json!("auto"),
                choice => choice.clone(),
            };
            prop_assert_eq!(choice(&chat), choice(&back));
            // A named tool leaves no room for several calls, none at all none for one.
            if chat["parallel_tool_calls"] == false && chat["tool_choice"] != "none" {
                prop_assert_eq!(&back["parallel_tool_calls"], false);
            }
            let stops = |chat: &Value| match &chat["stop"] {
                Value::String(one) => json!([one]),
                other => other.clone(),
            };
            prop_assert_eq!(stops(&chat), stops(&back));
            if let Some(max) = chat["max_completion_tokens"].as_u64() {
                prop_assert_eq!(back["max_completion_tokens"].as_u64(), Some(max));
            }
            prop_assert_eq!(&back["user"], "team-7");
            // Thinking takes the temperature's place; else it stays.
            if chat["reasoning_effort"].is_null() {
                prop_assert_eq!(&chat["temperature"], &back["temperature"]);
            }
            Ok(())
        })
        .unwrap();
}
