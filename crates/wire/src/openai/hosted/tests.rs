use std::sync::Arc;

use super::*;
use crate::openai::{Bound, splice};

/// The hosted tools of a request, read only where [`Bound::hosted`] is set, as for real requests.
fn read(endpoint: &Endpoint, body: &str) -> Option<Hosted> {
    let peek = Peek::parse(body.as_bytes()).expect(body);
    let bound = Bound::of(endpoint, body.as_bytes(), &peek);
    let hosted = Hosted::read(endpoint, body.as_bytes()).expect(body);
    assert!(bound.hosted || hosted.is_none(), "the first pass has to see it: {body}");
    assert!(hosted.is_none() || bound.unbounded_prompt || hosted.as_ref().is_some_and(|h| !h.is_bounded()), "{body}");
    hosted.filter(|_| bound.hosted)
}

fn responses(tools: &str) -> Option<Hosted> {
    read(&Endpoint::Responses, &format!(r#"{{"model":"m","input":"x","tools":{tools}}}"#))
}

fn prices(hosted: &Hosted) -> CallPrices {
    CallPrices::new(Arc::new(hosted.clone()), 8, |tool| {
        let cents = match tool {
            "web_search" => 1,
            "web_search_high" => 5,
            "file_search" => 2,
            "code_interpreter" => 3,
            "code_interpreter_4g" => 12,
            "mcp" | "web_fetch" => 0,
            "code_execution" => 4,
            _ => return None,
        };
        Some(NanoUsd(cents * 10_000_000))
    })
}

fn cents(amount: Option<NanoUsd>) -> Option<u64> {
    amount.map(|amount| amount.0 / 10_000_000)
}

#[test]
fn what_the_client_runs_is_not_hosted() {
    for tools in [
        "[]",
        r#"[{"type":"function","name":"f","parameters":{"type":"object","properties":{"type":{"type":"string"}}}}]"#,
        r#"[{"type":"custom","name":"c"},{"type":"computer_use_preview"},{"type":"local_shell"},{"type":"apply_patch"}]"#,
        r#"[{"type":"shell","environment":{"type":"local"}}]"#,
        r#"[{"type":"function","name":"f","parameters":{"properties":{"google_search":{"type":"string"}}}}]"#,
    ] {
        assert_eq!(responses(tools), None, "{tools}");
    }
    let body = r#"{"model":"m","max_tokens":9,"messages":[],"tools":[{"name":"f","input_schema":{"type":"object"}},
        {"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"e"},{"type":"computer_20250124"}]}"#;
    assert_eq!(read(&Endpoint::Messages, body), None);
    let history = r#"{"model":"m","input":[{"type":"web_search_call","id":"ws_1"},{"type":"message","role":"user","content":"x"}]}"#;
    assert_eq!(read(&Endpoint::Responses, history), None);
}

#[test]
fn every_tool_of_a_response_is_found_and_bounded_together() {
    let hosted = responses(
        r#"[{"type":"web_search_2025_08_26","search_context_size":"high"},{"type":"file_search","vector_store_ids":["v"]},
            {"type":"code_interpreter","container":{"type":"auto","memory_limit":"4g"}},{"type":"mcp","server_label":"s"}]"#,
    )
    .unwrap();
    assert_eq!(hosted.limit, Limit::Total(None));
    // Eight calls, each of which may be of the most expensive tool.
    assert_eq!((cents(prices(&hosted).most()), prices(&hosted).turns()), (Some(8 * 12), 9));
    let body = r#"{"model":"m","input":"x","max_tool_calls":2,"tools":[{"type":"web_search"}]}"#;
    let two = read(&Endpoint::Responses, body).unwrap();
    assert_eq!((cents(prices(&two).most()), prices(&two).turns()), (Some(2), 3));
    for (tool, missing) in [
        (r#"{"type":"image_generation"}"#, "image_generation"),
        (r#"{"type":"not_invented_yet"}"#, "not_invented_yet"),
        (r#"{"type":"code_interpreter","container":"cntr_1"}"#, "code_interpreter_by_id"),
        (r#"{"type":"code_interpreter","container":{"type":"auto","memory_limit":"64g"}}"#, "code_interpreter_64g"),
        (r#"{"type":"function","type":"image_generation","name":"f"}"#, "image_generation"),
        (r#"{"type":"function","Type":"image_generation","name":"f"}"#, "image_generation"),
    ] {
        let hosted = responses(&format!("[{tool}]")).expect(tool);
        assert_eq!(prices(&hosted).missing(), Some(missing), "{tool}");
        assert_eq!(prices(&hosted).most(), None);
    }
}

#[test]
fn what_brings_tools_along_unseen_has_no_bound() {
    for body in [
        r#"{"model":"m","prompt":{"id":"p"}}"#,
        r#"{"model":"m","input":[{"type":"additional_tools","tools":[{"type":"web_search"}]}]}"#,
    ] {
        assert!(!read(&Endpoint::Responses, body).expect(body).is_bounded(), "{body}");
    }
    for body in [
        r#"{"model":"m","messages":[],"search_parameters":{"mode":"on"}}"#,
        r#"{"model":"m","messages":[],"plugins":[{"id":"web"}]}"#,
        r#"{"model":"m","messages":[],"tools":[{"google_search":{}}]}"#,
        r#"{"model":"m","messages":[],"tools":[{"googleSearch":{}}]}"#,
        r#"{"model":"m","messages":[],"tools":[{"type":"browser_search"}]}"#,
        r#"{"model":"m","messages":[],"extra_body":{"google":{"tools":[{"google_search":{}}]}}}"#,
    ] {
        assert!(!read(&Endpoint::ChatCompletions, body).expect(body).is_bounded(), "{body}");
    }
    let search = read(&Endpoint::ChatCompletions, r#"{"model":"m","messages":[],"web_search_options":{}}"#).unwrap();
    assert_eq!((cents(prices(&search).most()), prices(&search).turns()), (Some(1), 2));
}

#[test]
fn anthropics_tools_are_bounded_each() {
    let tools = r#"[{"type":"web_search_20250305","name":"web_search","max_uses":3},{"type":"web_fetch_20250910","name":"f"},
        {"type":"code_execution_20250825","name":"c"}]"#;
    let body = format!(r#"{{"model":"m","max_tokens":9,"messages":[],"tools":{tools}}}"#);
    let hosted = read(&Endpoint::Messages, &body).unwrap();
    assert_eq!((cents(prices(&hosted).most()), prices(&hosted).turns()), (Some(3 + 4), 11));
    let peek = Peek::parse(body.as_bytes()).unwrap();
    let edits = hosted.limiting_edits(body.as_bytes(), &peek, 8);
    let sent = splice(&bytes::Bytes::from(body.clone()), &peek, &edits);
    let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!((&sent["tools"][0]["max_uses"], &sent["tools"][1]["max_uses"]), (&3.into(), &8.into()));
    assert_eq!(sent["tools"][2].get("max_uses"), None);

    let one = r#"{"model":"m","max_tokens":9,"messages":[],"tools":[{"type":"web_search_20250305","max_uses":1}]}"#;
    let one = read(&Endpoint::Messages, one).unwrap();
    assert_eq!((cents(prices(&one).most()), prices(&one).turns()), (Some(1), 2));
    for twisted in [r#""max_uses":1,"max_uses":9"#, r#""Max_Uses":1"#, r#""max_u\u017fes":1"#, r#""max_uses":"1""#] {
        let body = format!(r#"{{"model":"m","messages":[],"tools":[{{"type":"web_search_20250305",{twisted}}}]}}"#);
        assert!(Hosted::read(&Endpoint::Messages, body.as_bytes()).is_err(), "{twisted}");
    }
}

#[test]
fn a_reply_is_charged_by_its_calls() {
    let hosted = responses(
        r#"[{"type":"web_search"},{"type":"file_search"},{"type":"code_interpreter","container":{"type":"auto"}},{"type":"mcp"}]"#,
    )
    .unwrap();
    let prices = prices(&hosted);
    let output = r#"[{"type":"web_search_call","action":{"type":"search","query":"a"}},
        {"type":"web_search_call","action":{"type":"open_page","url":"u"}},{"type":"web_search_call","action":{"type":"find_in_page"}},
        {"type":"web_search_call"},{"type":"file_search_call"},{"type":"mcp_call"},{"type":"message"},
        {"type":"code_interpreter_call","container_id":"c1"},{"type":"code_interpreter_call","container_id":"c1"},
        {"type":"code_interpreter_call","container_id":"c2"}]"#;
    let whole = 2 + 2 + 2 * 3;
    for status in ["completed", "failed", "incomplete"] {
        let reply = format!(r#"{{"id":"r","status":"{status}","output":{output}}}"#);
        assert_eq!(cents(prices.cost_of(reply.as_bytes())), Some(whole), "{status}");
    }
    assert_eq!(cents(prices.cost_of(br#"{"output":[]}"#)), Some(0));
    for unreadable in [r#"{"status":"completed"}"#, r#"{"output":"x"}"#, "[1]"] {
        assert_eq!(prices.cost_of(unreadable.as_bytes()), prices.most(), "{unreadable}");
    }
    // In a stream, item by item, and once more at its end.
    let mut counter = CallCounter::new(Arc::new(hosted));
    let items: Vec<serde_json::Value> = serde_json::from_str(output).unwrap();
    for item in &items {
        let event = serde_json::json!({"type": "response.output_item.added", "item": item});
        counter.event(event.to_string().as_bytes());
        let event = serde_json::json!({"type": "response.output_item.done", "item": item});
        counter.event(event.to_string().as_bytes());
    }
    assert_eq!(cents(prices.cost(&counter)), Some(whole));
    let last = format!(r#"{{"type":"response.completed","response":{{"output":{output}}}}}"#);
    counter.event(last.as_bytes());
    assert_eq!(cents(prices.cost(&counter)), Some(whole));
    counter.event(br#"{"type":"response.output_item.done","item":{"type":"file_search_call","queries":["x.delta"]}}"#);
    assert_eq!(cents(prices.cost(&counter)), Some(whole + 2));
}

#[test]
fn anthropics_counts_are_cumulative() {
    let body = r#"{"model":"m","messages":[],"tools":[{"type":"web_search_20250305","max_uses":5},{"type":"code_execution_20250825"}]}"#;
    let hosted = read(&Endpoint::Messages, body).unwrap();
    let prices = prices(&hosted);
    let reply = br#"{"usage":{"input_tokens":1,"server_tool_use":{"web_search_requests":3}},"container":{"id":"c"}}"#;
    assert_eq!(cents(prices.cost_of(reply)), Some(3 + 4));
    let mut counter = CallCounter::new(Arc::new(hosted));
    for event in [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":1,"server_tool_use":{"web_search_requests":0}}}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"\"web_search_requests\":9"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn","container":null},"usage":{"server_tool_use":{"web_search_requests":2}}}"#,
    ] {
        counter.event(event.as_bytes());
    }
    assert_eq!(cents(prices.cost(&counter)), Some(2));
}

#[test]
fn a_reply_that_was_cut_off_has_read_its_prompt_once_and_once_more_for_each_call() {
    let prices_of = |tools: &str| prices(&responses(tools).unwrap());
    let search = prices_of(r#"[{"type":"web_search"}]"#);
    let prompt = |prices: &CallPrices, begun| prices.prompt_after(begun, (None, Some(1_000)), 50, 1_000_000);
    assert_eq!(prompt(&search, 0), 1_000 + 16_384);
    assert_eq!(prompt(&search, 1), 2 * (1_000 + 16_384) + 128_050);
    assert_eq!(
        search.prompt_after(1, (Some(10), Some(5)), 0, 1_000_000),
        10 + 10 + 128_000,
        "the provider's count is first"
    );
    assert_eq!(search.prompt_after(0, (None, None), 0, 1_000_000), 1_000_000, "a body that does not show its prompt");
    assert_eq!(
        search.prompt_after(u64::MAX, (Some(1), None), 0, 7),
        1 + 7 * (search.turns() - 1),
        "no more than its turns"
    );
    // Tools without a bound of their results may fill the model's context; an MCP server's description may from the start.
    assert_eq!(
        prompt(&prices_of(r#"[{"type":"code_interpreter","container":{"type":"auto"}}]"#), 1),
        17_384 + 1_000_000
    );
    assert_eq!(prompt(&prices_of(r#"[{"type":"web_search"},{"type":"mcp"}]"#), 0), 1_000_000);

    let mut counter = CallCounter::new(search.hosted().clone());
    let mut begun = |event: &str| {
        counter.event(event.as_bytes());
        counter.begun()
    };
    assert_eq!(begun(r#"{"type":"response.created","response":{"output":[]}}"#), Some(0));
    assert_eq!(
        begun(r#"{"type":"response.output_item.added","item":{"type":"web_search_call","status":"in_progress"}}"#),
        Some(1)
    );
    assert_eq!(begun(r#"{"type":"response.web_search_call.searching","item_id":"ws_call"}"#), Some(1));
    assert_eq!(
        begun(
            r#"{"type":"response.output_item.done","item":{"type":"web_search_call","action":{"type":"open_page"}}}"#
        ),
        Some(1)
    );
    assert_eq!(begun(r#"{"type":"response.output_item.added","item":{"type":"function_call"}}"#), Some(1));
    assert_eq!(
        begun(r#"{"type":"response.output_item.done","item":{"type":"new_tool_call"}}"#),
        Some(2),
        "without its beginning"
    );
    assert_eq!(begun(r#"{"type":"response.output_item.added","item":{"type":5,"x":"web_search_call"}}"#), None);

    let claude = r#"{"model":"m","messages":[],"tools":[{"type":"web_search_20250305","max_uses":5}]}"#;
    let mut counter = CallCounter::new(Arc::new(read(&Endpoint::Messages, claude).unwrap()));
    for (block, wanted) in
        [("text", 0), ("server_tool_use", 1), ("web_search_tool_result", 1), ("tool_use", 1), ("mcp_tool_use", 2)]
    {
        counter.event(format!(r#"{{"type":"content_block_start","content_block":{{"type":"{block}"}}}}"#).as_bytes());
        assert_eq!(counter.begun(), Some(wanted), "{block}");
    }
    assert_eq!(CallCounter::new(Arc::new(Hosted::search_model())).begun(), None, "it does not tell");
}
