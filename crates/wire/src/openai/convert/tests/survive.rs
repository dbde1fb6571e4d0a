//! Any reply survives the conversion to a stream and back.

use proptest::prelude::*;
use serde_json::Map;

use super::responses::RESPONSE;
use super::*;

fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[ -~]{0,20}", Just("\\\"\r\n\u{0}\u{2028}data: [DONE]\n\n😀".to_owned())]
}

fn some(strategy: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), strategy.prop_map(Value::String)]
}

fn logprobs() -> impl Strategy<Value = Value> {
    let token = (text(), -20.0..0.0_f64).prop_map(|(token, logprob)| json!({"token": token, "logprob": logprob}));
    let list = prop::collection::vec(token, 0..3).prop_map(Value::from);
    prop_oneof![Just(Value::Null), list.prop_map(|content| json!({"content": content, "refusal": null}))]
}

fn tool_call() -> impl Strategy<Value = Value> {
    (any::<bool>(), text(), text()).prop_map(|(custom, name, text)| match custom {
        true => json!({"type": "custom", "custom": {"name": name, "input": text}}),
        false => {
            json!({"type": "function", "function": {"name": name, "arguments": text}, "extra_content": {"a": [1, {}]}})
        }
    })
}

fn message() -> impl Strategy<Value = Value> {
    let calls = prop::collection::vec(tool_call(), 0..4);
    let optional = prop::collection::vec(any::<bool>(), 5);
    (some(text()), some(text()), some(text()), calls, text(), optional).prop_map(
        |(content, refusal, reasoning, calls, arguments, there)| {
            let mut message = json!({"role": "assistant", "content": content});
            let calls: Vec<Value> = calls
                .into_iter()
                .enumerate()
                .map(|(number, mut call)| {
                    call["id"] = format!("call_{number}").into();
                    call
                })
                .collect();
            let all = [
                ("refusal", refusal, there[0]),
                ("reasoning", reasoning, there[1]),
                ("annotations", json!([{"type": "url_citation", "url_citation": {"url": arguments}}]), there[2]),
                ("function_call", json!({"name": "f", "arguments": arguments}), there[3]),
                ("tool_calls", calls.clone().into(), !calls.is_empty()),
                ("annotations", json!([]), there[4]),
            ];
            let all = all.into_iter().filter(|member| member.2).map(|(name, value, _)| (name.to_owned(), value));
            message.as_object_mut().unwrap().extend(all.collect::<Map<_, _>>());
            message
        },
    )
}

/// A reply each of whose choices has this member, with a value from the strategy.
fn reply(
    object: &'static str,
    name: &'static str,
    filled: impl Strategy<Value = Value>,
) -> impl Strategy<Value = Value> {
    let reason = prop::sample::select(vec!["stop", "length", "tool_calls", "content_filter"]);
    let choices = prop::collection::vec((filled, logprobs(), reason), 1..4);
    (choices, any::<(u64, u32, bool)>(), text()).prop_map(move |(choices, (created, tokens, counted), model)| {
        let choice = |(index, (filled, logprobs, reason)): (usize, (Value, Value, &str))| {
            json!({"index": index, name: filled, "logprobs": logprobs, "finish_reason": reason})
        };
        let choices: Vec<Value> = choices.into_iter().enumerate().map(choice).collect();
        let mut reply = json!({"id": "c-1", "object": object, "created": created, "model": model, "choices": choices, "x": [tokens], "y": null});
        if counted {
            reply["usage"] = json!({"prompt_tokens": tokens, "completion_tokens": 1, "total_tokens": u64::from(tokens) + 1});
        }
        reply
    })
}

proptest! {
    #[test]
    fn chat_replies_survive(reply in reply("chat.completion", "message", message())) {
        round_trip(&Endpoint::ChatCompletions, &reply);
    }

    #[test]
    fn legacy_replies_survive(reply in reply("text_completion", "text", text().prop_map(Value::String))) {
        round_trip(&Endpoint::Completions, &reply);
    }

    #[test]
    fn responses_survive(text in text(), call in text(), summary in text()) {
        let mut reply: Value = serde_json::from_str(RESPONSE).unwrap();
        reply["output"][0]["summary"][0]["text"] = summary.into();
        reply["output"][1]["content"][0]["text"] = text.into();
        reply["output"][2]["arguments"] = call.into();
        round_trip(&Endpoint::Responses, &reply);
    }

    #[test]
    fn nothing_makes_it_panic(cut in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for (endpoint, json) in [(Endpoint::ChatCompletions, CHAT), (Endpoint::Responses, RESPONSE)] {
            let events = to_events(&endpoint, json.as_bytes()).unwrap();
            for text in [json.as_bytes(), &events] {
                let at = cut.index(text.len());
                let mut other = text.to_vec();
                other[at] = byte;
                for text in [&text[..at], &other] {
                    let _ = (to_events(&endpoint, text), to_json(&endpoint, text));
                }
            }
        }
    }
}
