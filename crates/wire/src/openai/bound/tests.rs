//! The bounds of bodies that are plain, and of those that hide something.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn bound(endpoint: &Endpoint, body: &str) -> Bound {
    Bound::of(endpoint, body.as_bytes(), &Peek::parse(body.as_bytes()).expect(body))
}

fn chat(body: &str) -> Bound {
    bound(&Endpoint::ChatCompletions, body)
}

fn responses(body: &str) -> Bound {
    bound(&Endpoint::Responses, body)
}

/// The text with every letter written as an escape.
fn escaped(text: &str) -> String {
    text.chars().map(|letter| format!("\\u{:04x}", u32::from(letter))).collect()
}

#[test]
fn a_plain_chat() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    let bytes = body.len() as u64;
    let expected = Bound {
        assumed_output: false,
        background: false,
        fallbacks: false,
        surcharge: false,
        compacts: false,
        prompt_tokens: bytes + TEMPLATE_TOKENS,
        unbounded_prompt: false,
        unbounded_besides_tools: false,
        hosted: false,
        media: false,
        prediction: 0,
        images: 0,
        choices: 1,
        max_output_tokens: None,
        estimate_tokens: bytes / 4,
    };
    assert_eq!(chat(body), expected);
    assert_eq!(responses(body), expected);
    let body = r#"{"model":"m","n":3,"max_tokens":5,"max_completion_tokens":7,"max_output_tokens":9}"#;
    assert_eq!((chat(body).choices, chat(body).max_output_tokens), (3, Some(7)));
    assert_eq!(responses(body).max_output_tokens, Some(9));
    assert_eq!(
        chat(r#"{"n":null,"max_tokens":null}"#),
        Bound { prompt_tokens: 28 + TEMPLATE_TOKENS, estimate_tokens: 7, ..expected }
    );
    assert_eq!(chat(r#"{"n":0,"max_output_tokens":9}"#).max_output_tokens, None);
    assert_eq!(chat(r#"{"n":0}"#).choices, 1);
    assert_eq!(chat(&format!(r#"{{"n":{}}}"#, u64::MAX)).choices, u64::MAX);
}

#[test]
fn a_prediction_counts_as_output() {
    let body = r#"{"max_tokens":5,"prediction":{"type":"content","content":"x"}}"#;
    assert_eq!(chat(body).max_output_tokens, Some(5 + body.len() as u64));
    assert_eq!(chat(&body.replace("\"max_tokens\":5,", "")).max_output_tokens, None);
    assert_eq!(chat(r#"{"max_tokens":5,"prediction":null,"metadata":{"prediction":"x"}}"#).max_output_tokens, Some(5));
}

#[test]
fn legacy_completions_multiply() {
    for (body, choices) in [
        (r#"{"prompt":"a"}"#, 1),
        (r#"{}"#, 1),
        (r#"{"prompt":[]}"#, 1),
        (r#"{"prompt":[1,2,3]}"#, 1),
        (r#"{"prompt":[ "a" , "b]," ,"c"]}"#, 3),
        (r#"{"prompt":[[1,2],[3]],"n":2}"#, 4),
        (r#"{"prompt":["a","b"],"n":2,"best_of":5}"#, 10),
        (r#"{"prompt":["a"],"n":5,"best_of":2}"#, 5),
        (r#"{"b\u0065st_of":4.0,"\u0070rompt":["a","b"]}"#, 8),
        (r#"{"best_of":"\u0034"}"#, 4),
        (r#"{"best_of":null}"#, 1),
        (r#"{"best_of":-3}"#, 1),
        (r#"{"best_of":{}}"#, 1),
        (r#"{"best_of":1e300,"n":7}"#, u64::MAX),
    ] {
        assert_eq!(bound(&Endpoint::Completions, body).choices, choices, "{body}");
    }
    let plain = bound(&Endpoint::Completions, r#"{"prompt":"a","max_completion_tokens":9}"#);
    assert_eq!((plain.max_output_tokens, plain.prompt_tokens), (Some(16), 40));
    // Many servers read 0 as no limit.
    assert_eq!(bound(&Endpoint::Completions, r#"{"max_tokens":0}"#).max_output_tokens, Some(16));
    assert_eq!(chat(r#"{"max_tokens":0,"max_completion_tokens":-0.0}"#).max_output_tokens, None);
    // Only there.
    assert_eq!(chat(r#"{"prompt":["a","b"],"best_of":5}"#).choices, 1);
}

#[test]
fn embeddings_and_moderations_generate_nothing() {
    let body = r#"{"input":["a","b"],"n":4,"max_tokens":5,"prompt":["a","b"]}"#;
    for endpoint in [Endpoint::Embeddings, Endpoint::Moderations] {
        let bound = bound(&endpoint, body);
        assert_eq!((bound.choices, bound.max_output_tokens), (1, Some(0)));
        assert_eq!(bound.prompt_tokens, body.len() as u64);
    }
}

#[test]
fn images_are_counted_in_every_spelling() {
    let part = r#"{"type":"image_url","image_url":{"url":"https://x/y.png"}}"#;
    let in_chat = |parts: &str| format!(r#"{{"messages":[{{"role":"user","content":[{parts}]}}]}}"#);
    for (parts, images) in [
        (part.to_owned(), 1),
        (format!("{part},{part} , {part}"), 3),
        (r#"{"image_url":"https://x/y.png"}"#.to_owned(), 1),
        (part.replace("image_url", &escaped("image_url")), 1),
        (part.replace("image_url", "image\\u005furl"), 1),
        (part.replace("\"image_url\":", "\"image_url\" \n\t:\r "), 1),
        (r#"{"type":"input_image","image_url":"data:image/png;base64,QUJD"}"#.to_owned(), 1),
        (format!(r#"{{"{}":"{}"}}"#, escaped("type"), escaped("input_image")), 1),
        (r#"{"type":"image","source":{"data":"QUJD"}},{"type":"image","image":"x"},{"image":"x"}"#.to_owned(), 2),
        (r#"{"type":"text","text":"{\"image_url\":\"x\"}"}"#.to_owned(), 0),
        (r#"{"type":"text","text":"image_url"}"#.to_owned(), 0),
        (r#"{"type":"text","text":"x\\","image_url":null}"#.to_owned(), 0),
    ] {
        let body = in_chat(&parts);
        let bound = chat(&body);
        assert_eq!((bound.images, bound.unbounded_prompt), (images, false), "{body}");
        assert_eq!(bound.prompt_tokens, body.len() as u64 + TEMPLATE_TOKENS + images * IMAGE_TOKENS);
    }
    let schema =
        r#"{"tools":[{"type":"function","function":{"parameters":{"properties":{"image_url":{"type":"string"}}}}}]}"#;
    assert_eq!(chat(schema).images, 0);
}

#[test]
fn an_estimate_leaves_encoded_files_out() {
    let data = "QUJD".repeat(1_000);
    for part in [
        format!(r#"{{"type":"image_url","image_url":{{"url":"data:image/png;base64,{data}"}}}}"#),
        format!(r#"{{"type":"input_image","image_url":"data:image\/png;base64,{data}"}}"#),
        format!(r#"{{"type":"file","file":{{"file_data":"data:application/pdf;base64,{data}"}}}}"#),
        format!(r#"{{"type":"input_audio","input_audio":{{"data":"{data}","format":"wav"}}}}"#),
    ] {
        let bound = chat(&format!(r#"{{"messages":[{{"role":"user","content":[{part}]}}]}}"#));
        assert!(bound.estimate_tokens < 50 + bound.images * IMAGE_ESTIMATE, "{bound:?}");
        assert!(bound.prompt_tokens > 4_000);
    }
    // A text that only looks like a key does not count.
    let bound = chat(&format!(r#"{{"messages":[{{"role":"user","content":"data:image/png;base64,{data}"}}]}}"#));
    assert!(bound.estimate_tokens > 1_000);
}

#[test]
fn what_the_provider_adds_is_seen() {
    for body in [
        r#"{"previous_response_id":"r"}"#,
        r#"{"conversation":"c"}"#,
        r#"{"conversation" : {"id":"c"}}"#,
        r#"{"prompt":{"id":"p"}}"#,
        r#"{"input":[{"content":[{"type":"input_file","file_id":"f"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_file","file_url":"u"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_file","file_data":"d"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_image","file_id":"f"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_audio","input_audio":{"data":"d"}}]}]}"#,
        r#"{"input":[{"type":"item_reference","id":"i"}]}"#,
        r#"{"input":[{"id":"i"}]}"#,
        r#"{"input":[{"id":"i","id":"j"}]}"#,
        r#"{"input":[{"type":null,"id":"i","x":1}]}"#,
        r#"{"tools":[{"type":"web_search"}]}"#,
        r#"{"tools":[{"type":"web_search_preview_2025_03_11"}]}"#,
        r#"{"tools":[{"type":"file_search"}]}"#,
        r#"{"tools":[{"type":"computer_use_preview"}]}"#,
        r#"{"tools":[{"type":"code_interpreter","container":{"type":"auto"}}]}"#,
        r#"{"tools":[{"type":"function","name":"f"},{"server_url":"u","type" : "mcp"}]}"#,
        r#"{"tools":[{"type":"image_generation"}]}"#,
        r#"{"tools":[{"type":"invented_tomorrow"}]}"#,
        r#"{"input":[{"type":"x","tools":[{"type":"mcp"}]}]}"#,
    ] {
        assert!(responses(body).unbounded_prompt, "{body}");
        // Each word written as escapes.
        for word in body.split('"').skip(1).step_by(2).filter(|word| word.len() > 1) {
            let body = body.replace(&format!("\"{word}\""), &format!("\"{}\"", escaped(word)));
            assert!(responses(&body).unbounded_prompt, "{body}");
        }
    }
    for body in [
        r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"f"}}]}]}"#,
        r#"{"messages":[{"content":[{"type":"video_url","video_url":{"url":"u"}}]}]}"#,
        r#"{"messages":[{"role":"assistant","audio":{"id":"a"}}]}"#,
        r#"{"web_search_options":{}}"#,
        r#"{"search_parameters":{"mode":"auto"}}"#,
        r#"{"plugins":[{"id":"web"}]}"#,
    ] {
        assert!(chat(body).unbounded_prompt, "{body}");
    }
}

#[test]
fn what_only_looks_like_it_is_not() {
    for body in [
        r#"{"previous_response_id":null,"conversation":null,"prompt":null}"#,
        r#"{"input":"{\"conversation\":\"c\",\"file_id\":\"f\"}","metadata":{"conversation":"c","prompt":"p"}}"#,
        r#"{"input":[{"role":"user","content":"file_id"},{"type":"message","content":"\"type\":\"mcp\""}]}"#,
        r#"{"input":[{"id":"m","type":"message","role":"assistant","content":[]},{"role":"user","content":"x","id":"i"}]}"#,
        r#"{"input":[{"type":"function_call","name":"f","call_id":"c","arguments":"{}","id":"f"},{"type":"reasoning","summary":[],"encrypted_content":"e","id":"r"}]}"#,
        r#"{"input":[{"type":"web_search_call","id":"w","status":"completed","action":{"type":"search","query":"q"}}]}"#,
        r#"{"tools":[{"type":"function","name":"f","parameters":{"type":"object","properties":{"file_id":{"type":"STRING"},"type":{"type":["string","null"],"enum":["mcp"]}}}}]}"#,
        r#"{"tools":[{"type":"custom","name":"f","format":{"type":"grammar"}}],"tool_choice":{"type":"function"}}"#,
        r#"{"modalities":["text","audio"],"audio":{"voice":"alloy","format":"wav"}}"#,
        r#"{"metadata":{"plugins":"x","web_search_options":"y"},"text":{"format":{"type":"json_schema"}}}"#,
    ] {
        assert!(!responses(body).unbounded_prompt, "{body}");
    }
    // These items stand for items that the provider has stored.
    for item in [
        r#"{"type":"reasoning","summary":[],"id":"r"}"#,
        r#"{"id":"r","summary":[{"type":"summary_text","text":"x"}],"content":[],"type":"reasoning"}"#,
        r#"{"type":"reasoning","id":"r","action":{"x":1}}"#,
        r#"{"type":"image_generation_call","id":"i","result":"AAAA","status":"completed"}"#,
        r#"{"id":"c","type":"code_interpreter_call","code":"1","outputs":null}"#,
        r#"{"id":"m","type":"message","role":"user"}"#,
        r#"{"type":"message","type":"reasoning","id":"r","content":[{}]}"#,
        r#"{"id":"w","type":"web_search_call"}"#,
    ] {
        let body = format!(r#"{{"input":[{{"role":"user","content":"x"}},{item}]}}"#);
        let is_last = item.ends_with(r#""type":"message","role":"user"}"#);
        // Without content a message is an error, so that nothing has to look for one.
        assert!(responses(&body).unbounded_prompt || is_last, "{body}");
    }
    // At other endpoints these items refer to nothing.
    for body in [r#"{"prompt":"p","conversation":"c"}"#, r#"{"messages":[{"tool_calls":[{"id":"i"}]}]}"#] {
        assert!(!chat(body).unbounded_prompt, "{body}");
    }
}

#[test]
fn a_broken_body_is_unbounded_and_harmless() {
    for body in [r#"{"a":"b"#, r#"{"a":"b\"#, "\"", "\"\\\"", "{\"a\"", "{\"type\":\"\\u00", "", "\\\"x", "{\"a\":"] {
        let bound = Bound::of(&Endpoint::Responses, body.as_bytes(), &Peek::default());
        assert!(bound.unbounded_prompt || body.matches('"').count() % 2 == 0 || body.starts_with('\\'), "{body}");
    }
}

proptest! {
    #[test]
    fn the_first_quote_or_escape_is_found(text in prop::collection::vec(prop::sample::select(&b"\"\\a!]\xa2\xdc\x23\x5d\x00"[..]), 0..40)) {
        let naive = text.iter().position(|byte| matches!(byte, b'"' | b'\\'));
        prop_assert_eq!(quote_or_escape(&text), naive);
    }

    #[test]
    fn no_text_has_more_tokens_than_the_bound(
        messages in prop::collection::vec((any::<String>(), prop::collection::vec("[ -~]{0,40}|\\PC{0,40}", 0..3)), 0..6),
        ascii in any::<bool>(),
    ) {
        let words = messages.iter().map(|(content, parts)| {
            let parts: Vec<Value> = parts.iter().map(|text| json!({"type": "text", "text": text})).collect();
            json!({"role": "user", "content": content, "parts": parts})
        });
        let mut body = json!({"model": "m", "messages": words.collect::<Vec<_>>()}).to_string();
        if ascii {
            // As Python's json writes it.
            body = body.encode_utf16().map(|unit| match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => char::from(byte).to_string(),
                _ => format!("\\u{unit:04x}"),
            }).collect();
        }
        let bound = chat(&body);
        let texts = messages.iter().flat_map(|(content, parts)| parts.iter().chain([content]));
        let tokens: u64 = texts.map(|text| (bpe_openai::o200k_base().count(text).max(bpe_openai::cl100k_base().count(text)) + 4) as u64).sum();
        // 4 for each message is what OpenAI adds; here each part gets as many.
        prop_assert!(tokens <= bound.prompt_tokens - TEMPLATE_TOKENS);
        prop_assert_eq!((bound.images, bound.unbounded_prompt), (0, false));
    }

    #[test]
    fn it_never_panics(bytes in prop::collection::vec(prop::sample::select(&b"{}[]:,\"\\ nutype0id\xff"[..]), 0..60)) {
        for endpoint in [Endpoint::Responses, Endpoint::Completions] {
            Bound::of(&endpoint, &bytes, &Peek::parse(&bytes).unwrap_or_default());
        }
    }
}
