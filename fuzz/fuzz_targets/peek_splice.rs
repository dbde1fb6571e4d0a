//! Any body: its bounds are ones, the peek and serde_json agree on what is a JSON object, and a spliced body is valid and says what was set.
#![no_main]

use bytes::Bytes;
use wire::openai::{
    Bound, Edit, Endpoint, Field, Peek, find_service_tier, find_usage, generated_text, include_usage_edit, normalise,
    splice,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = find_usage(data);
    let _ = find_service_tier(data);
    // Its text is never longer than what spells it, but for what stands for a broken surrogate.
    assert!(generated_text(data).is_none_or(|text| text.len() <= data.len() + data.len() / 2));
    if let Some(wrapped) = normalise(500, None, data) {
        assert!(wrapped.starts_with(b"{\"error\":{\"message\":"));
    }
    let Ok(peek) = Peek::parse(data) else { return };
    for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Completions, Endpoint::Embeddings] {
        let bound = Bound::of(&endpoint, data, &peek);
        assert!(bound.prompt_tokens >= data.len() as u64 && bound.choices >= 1);
    }
    let body = Bytes::copy_from_slice(data);
    assert_eq!(splice(&body, &peek, &[]).as_ptr(), body.as_ptr());

    let mut edits = vec![
        Edit::Set(Field::Model, "\"new\"".into()),
        Edit::Remove(Field::Seed),
        Edit::Remove(Field::N),
        Edit::Rename(Field::MaxTokens, "max_completion_tokens"),
        Edit::Insert("extra", "[1]".into()),
        Edit::RemoveKey("stop"),
    ];
    edits.extend(include_usage_edit(&body, &peek));
    let Ok(again) = Peek::parse(&splice(&body, &peek, &edits)) else { panic!("the spliced body is broken") };
    assert_eq!(again.model.as_deref(), Some("new"));
    assert!(again.include_usage && !again.has_seed && again.n.is_none());
    assert!(!again.has(Field::MaxTokens));
    assert!(!peek.has(Field::MaxTokens) || again.max_completion_tokens == peek.max_tokens);
});
