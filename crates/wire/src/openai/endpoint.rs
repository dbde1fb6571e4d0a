//! Which endpoint a request is for: one of OpenAI's, or one of Anthropic's that the same listener serves.

use http::Method;

/// The model that OpenAI uses for a moderation without `model`: the only endpoint where the model is optional.
pub const DEFAULT_MODERATION_MODEL: &str = "omni-moderation-latest";

/// The endpoints the gateway understands. All other paths under `/v1/` are [`Endpoint::Other`]; their bodies pass
/// byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`
    Completions,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/moderations`
    Moderations,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/messages`, Anthropic's.
    Messages,
    /// `POST /v1/messages/count_tokens`, Anthropic's.
    CountTokens,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`; the id is percent-decoded and may contain `/`, as in `meta-llama/Llama-3`.
    Model(String),
    /// `POST /v1/cache/invalidate`, the gateway's own.
    InvalidateCache,
    /// Anything else.
    Other,
}

impl Endpoint {
    /// The endpoint of a method and a path; the path has no query string.
    pub fn of(method: &Method, path: &str) -> Self {
        let Some(rest) = path.strip_prefix("/v1/") else { return Self::Other };
        if *method == Method::POST {
            match rest {
                "chat/completions" => Self::ChatCompletions,
                "completions" => Self::Completions,
                "embeddings" => Self::Embeddings,
                "moderations" => Self::Moderations,
                "responses" => Self::Responses,
                "messages" => Self::Messages,
                "messages/count_tokens" => Self::CountTokens,
                "cache/invalidate" => Self::InvalidateCache,
                _ => Self::Other,
            }
        } else if *method == Method::GET {
            match rest.strip_prefix("models") {
                Some("" | "/") => Self::Models,
                Some(id) => id.strip_prefix('/').and_then(percent_decode).map_or(Self::Other, Self::Model),
                None => Self::Other,
            }
        } else {
            Self::Other
        }
    }

    /// The endpoint's word as a metric label, from a closed set.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Completions => "completions",
            Self::Embeddings => "embeddings",
            Self::Moderations => "moderations",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::CountTokens => "count_tokens",
            Self::Models => "models",
            Self::Model(_) => "model",
            Self::InvalidateCache => "cache_invalidate",
            Self::Other => "other",
        }
    }

    /// Whether the gateway reads and peeks into the request body before it routes.
    pub fn reads_body(&self) -> bool {
        matches!(
            self,
            Self::ChatCompletions
                | Self::Completions
                | Self::Embeddings
                | Self::Moderations
                | Self::Responses
                | Self::Messages
                | Self::CountTokens
        )
    }

    /// Whether the endpoint is Anthropic's, whose clients read errors in another shape.
    pub fn is_anthropic(&self) -> bool {
        matches!(self, Self::Messages | Self::CountTokens)
    }
}

/// Decodes `%XX`; `None` on a broken escape or when the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(bytes.next()?).to_digit(16)?;
            let low = char::from(bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_endpoints_are_understood_for_post_only() {
        let all = [
            ("/v1/chat/completions", Endpoint::ChatCompletions),
            ("/v1/completions", Endpoint::Completions),
            ("/v1/embeddings", Endpoint::Embeddings),
            ("/v1/moderations", Endpoint::Moderations),
            ("/v1/responses", Endpoint::Responses),
            ("/v1/messages", Endpoint::Messages),
            ("/v1/messages/count_tokens", Endpoint::CountTokens),
        ];
        for (path, endpoint) in all {
            assert_eq!(Endpoint::of(&Method::POST, path), endpoint);
            assert!(endpoint.reads_body());
            assert_eq!(Endpoint::of(&Method::GET, path), Endpoint::Other, "{path}");
            assert_eq!(Endpoint::of(&Method::DELETE, path), Endpoint::Other, "{path}");
        }
        for path in [
            "/v1/messages/batches",
            "/v1/responses/resp_1",
            "/v1/files",
            "/v1/chat/completions/x",
            "/v2/completions",
            "/",
            "",
        ] {
            assert_eq!(Endpoint::of(&Method::POST, path), Endpoint::Other, "{path}");
        }
        assert!(!Endpoint::Other.reads_body());
    }

    #[test]
    fn model_ids_may_hold_slashes_and_escapes() {
        let model = |path: &str| Endpoint::of(&Method::GET, path);
        assert_eq!(model("/v1/models"), Endpoint::Models);
        assert_eq!(model("/v1/models/"), Endpoint::Models);
        assert_eq!(model("/v1/models/a/b"), Endpoint::Model("a/b".into()));
        assert_eq!(model("/v1/models/a%2Fb%3a1"), Endpoint::Model("a/b:1".into()));
        assert_eq!(model("/v1/models/%C3%A9"), Endpoint::Model("é".into()));
        for broken in ["/v1/models/%", "/v1/models/%2", "/v1/models/%zz", "/v1/models/%ff", "/v1/modelsx"] {
            assert_eq!(model(broken), Endpoint::Other, "{broken}");
        }
        assert_eq!(Endpoint::of(&Method::DELETE, "/v1/models/ft:x"), Endpoint::Other);
        assert_eq!(Endpoint::of(&Method::GET, "/v1/models/x").label(), "model");
    }
}
