//! Whether a complete reply may be stored and given again to an equal request.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Endpoint;

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    choices: Option<Vec<FinishedChoice<'a>>>,
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    results: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct FinishedChoice<'a> {
    #[serde(borrow)]
    finish_reason: Option<Cow<'a, str>>,
}

/// True for a reply that is complete: every choice has a `finish_reason` and none was ended by a content filter (chat and
/// completions), `status` is `completed` (responses), the data is there (embeddings, moderations), and it reports no error.
pub fn is_good(endpoint: &Endpoint, json: &[u8]) -> bool {
    let Ok(reply) = serde_json::from_slice::<Reply<'_>>(json) else { return false };
    if reply.error.is_some_and(|error| error.get() != "null") {
        return false;
    }
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => reply.choices.is_some_and(|choices| {
            let ended =
                |choice: &FinishedChoice<'_>| choice.finish_reason.as_ref().is_some_and(|why| why != "content_filter");
            !choices.is_empty() && choices.iter().all(ended)
        }),
        Endpoint::Responses => reply.status.is_some_and(|status| status == "completed"),
        Endpoint::Embeddings => reply.data.is_some(),
        Endpoint::Moderations => reply.results.is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_to_its_own_end_is_good() {
        let chat = |json: &str| is_good(&Endpoint::ChatCompletions, json.as_bytes());
        assert!(chat(r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"length"}]}"#));
        assert!(chat(r#"{"error":null,"choices":[{"finish_reason":"tool_calls"}]}"#));
        for bad in [
            r#"{"choices":[]}"#,
            r#"{"choices":[{"finish_reason":null}]}"#,
            r#"{"choices":[{"finish_reason":"stop"},{"finish_reason":"content_filter"}]}"#,
            r#"{"error":{"message":"x"},"choices":[{"finish_reason":"stop"}]}"#,
            r#"{"choices":[{"finish_reason":"stop"}]"#,
            "[]",
        ] {
            assert!(!chat(bad), "{bad}");
        }
        let responses = |json: &str| is_good(&Endpoint::Responses, json.as_bytes());
        assert!(responses(r#"{"error":null,"status":"completed","output":[]}"#));
        assert!(!responses(r#"{"error":null,"status":"incomplete","output":[]}"#));
        assert!(is_good(&Endpoint::Embeddings, br#"{"data":[]}"#) && !is_good(&Endpoint::Embeddings, b"{}"));
        assert!(is_good(&Endpoint::Moderations, br#"{"results":[]}"#) && !is_good(&Endpoint::Moderations, b"{}"));
    }
}
