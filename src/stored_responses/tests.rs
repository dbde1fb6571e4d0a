use serde_json::{Value, json};

use super::*;
use crate::config;

const TTL: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn store(memory: u64, tenant_memory: u64) -> Arc<StoredResponses> {
    let store = StoredResponses::new(MemoryBudget::new(64 * MIB));
    store.set_bounds(config::StoredResponses { ttl: TTL, memory, tenant_memory });
    Arc::new(store)
}

fn owner(tenant: &str, client: u8) -> Owner {
    Owner { tenant: tenant.into(), client: [client; 16] }
}

fn opened(store: &Arc<StoredResponses>, owner: &Owner, body: &Value, now: Instant) -> Opened {
    store.open(owner, body.to_string().as_bytes(), true, now).unwrap_or_else(|missing| panic!("{missing:?} in {body}"))
}

fn missing(store: &Arc<StoredResponses>, owner: &Owner, body: &Value, now: Instant) -> (Missing, bool) {
    match store.open(owner, body.to_string().as_bytes(), true, now) {
        Err(missing) => missing,
        Ok(_) => panic!("{body} is not refused"),
    }
}

/// The body of a request as its provider will get it.
fn body(opened: &mut Opened) -> Value {
    let whole = opened.body.take().unwrap();
    let (bytes, text) = (whole.bytes(), whole.write());
    assert_eq!(bytes, text.len());
    serde_json::from_slice(&text).unwrap()
}

/// The input of a request as its provider will get it.
fn input(opened: &mut Opened) -> Value {
    let body = body(opened);
    assert!(body.get("previous_response_id").is_none(), "{body}");
    body["input"].clone()
}

/// Answers a request: keeps a response of this id whose message says `text`.
fn answer(store: &Arc<StoredResponses>, owner: &Owner, body: &Value, id: &str, text: &str, now: Instant) {
    let turn = opened(store, owner, body, now).turn.unwrap();
    let message = json!({"type": "message", "id": format!("msg_{id}"), "role": "assistant", "content": text});
    let document = json!({"id": id, "object": "response", "output": [message]});
    store.keep(&turn, document.to_string().as_bytes(), now);
}

#[test]
fn a_conversation_comes_back_whole_by_reference_to_a_response_or_to_its_items() {
    let (store, owner, now) = (store(MIB, MIB), owner("a", 0), Instant::now());
    answer(&store, &owner, &json!({"model": "m", "instructions": "Be.", "input": "One"}), "resp_1", "1", now);
    let second = json!({"model": "m", "previous_response_id": "resp_1", "input": [{"role": "user", "content": "Two"}]});
    answer(&store, &owner, &second, "resp_2", "2", now);
    let third = json!({"previous_response_id": "resp_2", "input": "Three", "tools": [], "metadata": {"a": "ü\n"}});
    let mut third = opened(&store, &owner, &third, now);
    let user = |text: &str| json!({"type": "message", "role": "user", "content": text});
    let said = |id: &str, text: &str| json!({"type": "message", "id": id, "role": "assistant", "content": text});
    let two = json!({"role": "user", "content": "Two"});
    let all = [user("One"), said("msg_resp_1", "1"), two, said("msg_resp_2", "2"), user("Three")];
    let body = body(&mut third);
    assert_eq!(body["input"], json!(all));
    assert!(body.get("instructions").is_none(), "they are not carried over: {body}");
    assert!(body.get("previous_response_id").is_none(), "{body}");
    assert_eq!((&body["tools"], &body["metadata"]), (&json!([]), &json!({"a": "ü\n"})));
    assert_eq!(third.previous_response_id.as_deref(), Some("resp_2"));

    // References in the forms that the AI SDK sends, with and without a type.
    let referring = json!({"input": [{"role": "user", "content": "One"}, {"type": "item_reference", "id": "msg_resp_1"},
        {"id": "msg_resp_2"}, {"type": "function_call_output", "call_id": "c", "output": "x", "id": "msg_resp_1"}]});
    let mut by_items = opened(&store, &owner, &referring, now);
    let expected = json!([{"role": "user", "content": "One"}, said("msg_resp_1", "1"), said("msg_resp_2", "2"),
        {"type": "function_call_output", "call_id": "c", "output": "x", "id": "msg_resp_1"}]);
    assert_eq!(input(&mut by_items), expected);
    assert_eq!(by_items.previous_response_id, None);
    // A body without references stays as it was.
    assert!(opened(&store, &owner, &json!({"input": "item_reference"}), now).body.is_none());
}

#[test]
fn nobody_finds_what_is_anothers() {
    let (store, now) = (store(MIB, MIB), Instant::now());
    answer(&store, &owner("a", 0), &json!({"input": "Hi"}), "resp_1", "secret", now);
    for other in [owner("b", 0), owner("a", 1)] {
        let by_response = missing(&store, &other, &json!({"previous_response_id": "resp_1", "input": "x"}), now);
        assert_eq!(by_response, (Missing::Response("resp_1".into()), false));
        let item = json!({"input": ["x", {"type": "item_reference", "id": "msg_resp_1"}]});
        assert_eq!(missing(&store, &other, &item, now), (Missing::Item("msg_resp_1".into(), 1), false));
        assert!(store.response(&other, "resp_1", now).is_none() && !store.remove(&other, "resp_1"));
        // The same id for another client is another response.
        answer(&store, &other, &json!({"input": "Ho"}), "resp_1", "mine", now);
        assert!(store.response(&other, "resp_1", now).unwrap().document().contains("mine"));
    }
    assert!(store.response(&owner("a", 0), "resp_1", now).unwrap().document().contains("secret"));
    // An existing reference does not hide a missing one.
    let mixed = json!({"previous_response_id": "resp_1", "input": [{"type": "item_reference", "id": "msg_x"}]});
    assert_eq!(missing(&store, &owner("a", 0), &mixed, now), (Missing::Item("msg_x".into(), 0), true));
}

#[test]
fn what_was_not_used_for_long_is_gone_and_what_goes_on_stays_whole() {
    let (store, owner, start) = (store(MIB, MIB), owner("a", 0), Instant::now());
    answer(&store, &owner, &json!({"input": "One"}), "resp_1", "1", start);
    answer(&store, &owner, &json!({"input": "Other"}), "resp_x", "x", start);
    let mut at = start;
    for n in 2..6 {
        at += TTL / 2;
        let before = format!("resp_{}", n - 1);
        answer(&store, &owner, &json!({"previous_response_id": before, "input": "On"}), &format!("resp_{n}"), "n", at);
    }
    assert!(store.response(&owner, "resp_x", at).is_none());
    let mut last = opened(&store, &owner, &json!({"previous_response_id": "resp_5", "input": "End"}), at);
    assert_eq!(input(&mut last).as_array().unwrap().len(), 11);
    // The first response is kept, too, because the whole conversation was in use.
    assert!(store.response(&owner, "resp_1", at).is_some());
    drop(last);
    let late = at + TTL + Duration::from_secs(1);
    let gone = missing(&store, &owner, &json!({"previous_response_id": "resp_5", "input": "x"}), late);
    assert_eq!(gone, (Missing::Response("resp_5".into()), false));
    assert_eq!((store.len(late), store.memory.usage().used), (0, [0; 4]), "and all of its memory");
}

#[test]
fn a_deleted_response_is_gone_and_what_continues_it_is_whole() {
    let (store, owner, now) = (store(MIB, MIB), owner("a", 0), Instant::now());
    answer(&store, &owner, &json!({"input": "One"}), "resp_1", "1", now);
    answer(&store, &owner, &json!({"previous_response_id": "resp_1", "input": "Two"}), "resp_2", "2", now);
    assert!(store.remove(&owner, "resp_1") && !store.remove(&owner, "resp_1"));
    let item = json!({"input": [{"type": "item_reference", "id": "msg_resp_1"}]});
    assert_eq!(missing(&store, &owner, &item, now).0, Missing::Item("msg_resp_1".into(), 0));
    let mut next = opened(&store, &owner, &json!({"previous_response_id": "resp_2", "input": "Three"}), now);
    assert_eq!(input(&mut next).as_array().unwrap().len(), 5);
}

#[test]
fn a_tenant_pushes_out_its_own_and_nobody_holds_more_than_all_may() {
    let (store, now) = (store(400_000, 200_000), Instant::now());
    let (quiet, loud) = (owner("quiet", 0), owner("loud", 0));
    answer(&store, &quiet, &json!({"input": "Hi"}), "resp_q", "q", now);
    let text = |n: usize| format!("{n}{}", "x".repeat(20_000));
    for n in 0..50 {
        answer(&store, &loud, &json!({"input": text(n)}), &format!("resp_{n}"), "ok", now);
        let used: u64 = store.memory.usage().used.iter().sum();
        assert!(used <= 210_000, "{used}");
    }
    assert!(store.response(&quiet, "resp_q", now).is_some());
    assert!(store.response(&loud, "resp_49", now).is_some() && store.response(&loud, "resp_0", now).is_none());
    // The bound of all tenants together: the tenant that has most loses a response.
    for n in 0..20 {
        answer(&store, &owner("third", 0), &json!({"input": text(n)}), &format!("resp_{n}"), "ok", now);
        answer(&store, &owner("fourth", 0), &json!({"input": text(n)}), &format!("resp_{n}"), "ok", now);
        let used: u64 = store.memory.usage().used.iter().sum();
        assert!(used <= 400_000, "{used}");
    }
    assert!(store.response(&quiet, "resp_q", now).is_some());
    // A conversation that does not fit at all is not kept, and pushes out nothing.
    let before = store.len(now);
    assert!(opened(&store, &quiet, &json!({"input": "y".repeat(250_000)}), now).turn.is_none());
    assert_eq!(store.len(now), before);
}

#[test]
fn a_conversation_that_is_sent_again_and_again_is_kept_once() {
    let (store, owner, now) = (store(8 * MIB, 8 * MIB), owner("a", 0), Instant::now());
    let mut items = vec![json!({"role": "user", "content": "z".repeat(100_000)})];
    for n in 0..100 {
        items.push(json!({"role": "user", "content": n.to_string()}));
        answer(&store, &owner, &json!({"input": items}), &format!("resp_{n}"), "ok", now);
    }
    let used: u64 = store.memory.usage().used.iter().sum();
    assert!(used < 300_000, "{used}");
}

/// A text repeated in many turns takes little room in the store, but much in a request: its length is known before it is written.
#[test]
fn a_small_conversation_that_is_long_when_written_says_so() {
    let (store, owner, now) = (store(MIB, MIB), owner("a", 0), Instant::now());
    let text = "w".repeat(100_000);
    answer(&store, &owner, &json!({"input": text}), "resp_0", "ok", now);
    for n in 1..100 {
        let next = json!({"previous_response_id": format!("resp_{}", n - 1), "input": text});
        answer(&store, &owner, &next, &format!("resp_{n}"), "ok", now);
    }
    let next = opened(&store, &owner, &json!({"previous_response_id": "resp_99", "input": "x"}), now);
    assert!(next.body.unwrap().bytes() > 100 * text.len());
    assert!(store.response(&owner, "resp_99", now).unwrap().context_bytes() > 99 * text.len());
    assert!(store.memory.usage().used[Part::Stored as usize] < 300_000);
}

#[test]
fn a_conversation_may_be_longer_than_the_stack_is_deep() {
    let (store, owner, now) = (store(64 * MIB, 64 * MIB), owner("a", 0), Instant::now());
    let mut previous = None;
    for n in 0..20_000 {
        let turn = Turn { store: store.clone(), owner: owner.clone(), previous, input: Vec::new() };
        let document = format!(r#"{{"id":"resp_{n}","output":[]}}"#);
        store.keep(&turn, document.as_bytes(), now);
        previous = store.state.lock().shelves["a"].peek(&owner, &format!("resp_{n}"));
    }
    drop(previous);
    store.set_bounds(config::StoredResponses { ttl: TTL, memory: 0, tenant_memory: 0 });
    assert_eq!((store.len(now), store.memory.usage().used), (0, [0; 4]));
}

#[test]
fn the_memory_budget_knows_of_it() {
    let memory = MemoryBudget::new(MIB);
    let store = StoredResponses::new(memory.clone());
    store.set_bounds(config::StoredResponses { ttl: TTL, memory: 8 * MIB, tenant_memory: 8 * MIB });
    let (store, owner, now) = (Arc::new(store), owner("a", 0), Instant::now());
    for n in 0..100 {
        answer(
            &store,
            &owner,
            &json!({"input": format!("{n}{}", "x".repeat(10_000))}),
            &format!("resp_{n}"),
            "ok",
            now,
        );
        assert!(memory.usage().used[Part::Stored as usize] <= MIB / 8);
    }
    assert!(store.response(&owner, "resp_99", now).is_some() && store.response(&owner, "resp_0", now).is_none());
    drop(store);
    assert_eq!(memory.usage().used, [0; 4]);
}

#[test]
fn only_the_end_of_a_good_stream_holds_a_response_to_keep() {
    for (payload, kept) in [
        (r#"{"type":"response.completed","sequence_number":9,"response":{"id":"resp_1","output":[]}}"#, true),
        (r#"{"type":"response.incomplete","sequence_number":9,"response":{"id":"resp_1","output":[]}}"#, true),
        (r#"{"type":"response.created","sequence_number":0,"response":{"id":"resp_1","output":[]}}"#, false),
        (r#"{"type":"response.output_item.done","item":{"id":"msg_1"}}"#, false),
        ("[DONE]", false),
    ] {
        assert_eq!(ended(payload.as_bytes()).is_some(), kept, "{payload}");
    }
}

#[test]
fn the_items_of_a_response_are_listed_page_by_page() {
    let (store, owner, now) = (store(MIB, MIB), owner("a", 0), Instant::now());
    answer(&store, &owner, &json!({"input": "One"}), "resp_1", "1", now);
    let two = json!([{"role": "user", "content": [{"type": "input_text", "text": "Two"}]}]);
    answer(&store, &owner, &json!({"previous_response_id": "resp_1", "input": two}), "resp_2", "2", now);
    let response = store.response(&owner, "resp_2", now).unwrap();
    let listed = |query: &[(&str, &str)]| page(&response, &Page::read(query.iter().copied()).unwrap());
    let all = listed(&[("order", "asc")]).unwrap();
    let ids: Vec<_> = all["data"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["item_0", "msg_resp_1", "item_2"]);
    assert_eq!(all["data"][0]["content"], json!([{"type": "input_text", "text": "One"}]));
    assert_eq!((&all["has_more"], &all["last_id"]), (&json!(false), &json!("item_2")));
    let first = listed(&[("limit", "2")]).unwrap();
    assert_eq!((&first["has_more"], &first["last_id"]), (&json!(true), &json!("msg_resp_1")));
    let rest = listed(&[("limit", "2"), ("after", "msg_resp_1")]).unwrap();
    assert_eq!((rest["data"].as_array().unwrap().len(), &rest["has_more"]), (1, &json!(false)));
    assert!(listed(&[("after", "nothing")]).is_none());
    for wrong in [("limit", "0"), ("limit", "x"), ("order", "up")] {
        assert_eq!(Page::read([wrong]).unwrap_err().0, wrong.0);
    }
}
