//! Batches: checks the request that creates a batch, and the lines of its input file.

use std::borrow::Cow;

use serde::de::{Deserializer, MapAccess, Visitor};

use super::refs::{Refused, Text};
use crate::openai::fold::{fold_char, folds_to};

/// The endpoints that the lines of a batch may ask, without the `/v1` that Azure leaves out. No endpoint contains an id, so
/// everything that a line refers to is in its body. Sources: OpenAI's `CreateBatchRequest` and Groq's reference.
const ENDPOINTS: &[&str] = &[
    "/audio/transcriptions",
    "/audio/translations",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/images/edits",
    "/images/generations",
    "/moderations",
    "/responses",
    "/videos",
];

/// A request that creates a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The id of the file with its lines.
    pub file: String,
    /// The endpoint that every line asks; one of [`ENDPOINTS`].
    endpoint: &'static str,
}

impl Batch {
    /// Reads the body of `POST /v1/batches`.
    ///
    /// # Errors
    /// The body has no file or no endpoint, could be read in two ways, or names a place to read from or write to that is no file
    /// of the provider (Azure's `input_blob` and `output_folder`).
    pub fn read(body: &[u8]) -> Result<Self, Refused> {
        let members = members(body)?;
        // Azure's names, and similar ones that may bypass the file in the future.
        let beyond = |key: &str| {
            let begins = |with: &str| key.chars().filter_map(fold_char).take(with.len()).eq(with.chars());
            let known = ["input_file_id", "output_expires_after"].iter().any(|name| folds_to(key, name));
            (begins("input") || begins("output")) && !known
        };
        if let Some((key, _)) = members.iter().find(|(key, _)| beyond(key)) {
            return Err(Refused::Beyond(key.chars().take(100).collect()));
        }
        let file = one(&members, "input_file_id")?;
        let endpoint = one(&members, "endpoint")?;
        let (Some(file), Some(endpoint)) = (file, endpoint) else {
            return Err(match file {
                None => Refused::Unfit("input_file_id", "must be the id of a file"),
                Some(_) => Refused::Unfit("endpoint", "must be a path such as '/v1/responses'"),
            });
        };
        match known(endpoint) {
            Some(endpoint) => Ok(Self { file: file.to_owned(), endpoint }),
            None => Err(Refused::Unfit("endpoint", "is none that the lines of a batch may ask")),
        }
    }

    /// Checks that a line asks the batch's endpoint and nothing else. The references in its body are not checked here.
    ///
    /// # Errors
    /// The line has another endpoint or method, or could be read in two ways.
    pub fn check(&self, line: &[u8]) -> Result<(), Refused> {
        let members = members(line)?;
        if one(&members, "method")? != Some("POST") {
            return Err(Refused::Unfit("method", "must be 'POST'"));
        }
        match one(&members, "url")?.and_then(known) {
            Some(url) if url == self.endpoint => Ok(()),
            _ => Err(Refused::Unfit("url", "must be the endpoint of the batch")),
        }
    }
}

fn known(url: &str) -> Option<&'static str> {
    let path = url.strip_prefix("/v1").unwrap_or(url);
    ENDPOINTS.iter().find(|known| **known == path).copied()
}

/// The names of an object's members, and the values of those that are strings.
fn members(json: &[u8]) -> Result<Vec<(String, Option<String>)>, Refused> {
    struct Members(Vec<(String, Option<String>)>);
    impl<'de> Visitor<'de> for Members {
        type Value = Self;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self, A::Error> {
            while let Some(key) = map.next_key::<Cow<'_, str>>()? {
                self.0.push((key.into_owned(), map.next_value::<Text>()?.0));
            }
            Ok(self)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let read = (&mut reader).deserialize_map(Members(Vec::new())).and_then(|members| reader.end().map(|()| members.0));
    read.map_err(|error| Refused::Unreadable(error.to_string()))
}

/// The string under a name; `None` if there is no string.
fn one<'m>(members: &'m [(String, Option<String>)], name: &'static str) -> Result<Option<&'m str>, Refused> {
    let mut found = members.iter().filter(|(key, _)| folds_to(key, name));
    let first = found.next();
    match found.next() {
        Some(_) => Err(Refused::Twice(name)),
        None => Ok(first.and_then(|(_, value)| value.as_deref())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_names_a_file_and_an_endpoint_without_ids() {
        for endpoint in ["/v1/responses", "/responses", "/v1/chat/completions"] {
            let body = format!(
                r#"{{"input_file_id":"file-1","endpoint":"{endpoint}","completion_window":"24h","metadata":{{"input_blob":"x"}},
                "output_expires_after":{{"anchor":"created_at","seconds":3600}}}}"#
            );
            let batch = Batch::read(body.as_bytes()).unwrap();
            assert_eq!(
                (batch.file.as_str(), Some(batch.endpoint)),
                ("file-1", endpoint.strip_prefix("/v1").or(Some(endpoint)))
            );
        }
        let beyond = |key: &str| Err(Refused::Beyond(key.to_owned()));
        for (body, outcome) in [
            (r#"{"input_blob":"https://x/y","endpoint":"/v1/responses"}"#, beyond("input_blob")),
            (r#"{"input_file_id":"f","endpoint":"/v1/responses","Input-Blob":"x"}"#, beyond("Input-Blob")),
            (
                r#"{"input_file_id":"f","endpoint":"/v1/responses","output_folder":{"url":"x"}}"#,
                beyond("output_folder"),
            ),
            (r#"{"input_file_id":"f","endpoint":"/v1/responses","ou\u0074putFolder":1}"#, beyond("outputFolder")),
            (
                r#"{"input_file_id":"f","INPUT_FILE_ID":"g","endpoint":"/v1/responses"}"#,
                Err(Refused::Twice("input_file_id")),
            ),
            (
                r#"{"input_file_id":"f","endpoint":"/v1/responses","Endpoint":"/v1/files"}"#,
                Err(Refused::Twice("endpoint")),
            ),
        ] {
            assert_eq!(Batch::read(body.as_bytes()), outcome, "{body}");
        }
        for (file, endpoint) in [
            (r#""f""#, r#""/v1/vector_stores/vs_1/search""#),
            (r#""f""#, r#""/v1/files/file-1""#),
            (r#""f""#, r#""/v1/v1/responses""#),
            (r#""f""#, r#""/v1/responses/""#),
            (r#""f""#, r#""/v1/responses?x=1""#),
            (r#""f""#, r#""https://api.openai.com/v1/responses""#),
            (r#""f""#, r#"["/v1/responses"]"#),
            (r#"{"id":"f"}"#, r#""/v1/responses""#),
        ] {
            let body = format!(r#"{{"input_file_id":{file},"endpoint":{endpoint}}}"#);
            assert!(matches!(Batch::read(body.as_bytes()), Err(Refused::Unfit(..))), "{body}");
        }
        for body in ["[]", "", "{", "{} x", "\"x\""] {
            assert!(matches!(Batch::read(body.as_bytes()), Err(Refused::Unreadable(_))), "{body}");
        }
    }

    #[test]
    fn a_line_asks_what_the_batch_says() {
        let batch = Batch { file: "f".into(), endpoint: "/responses" };
        for line in [
            r#"{"custom_id":"1","method":"POST","url":"/v1/responses","body":{"url":"/v1/files"}}"#,
            r#"{"url":"/responses","method":"POST"}"#,
        ] {
            assert_eq!(batch.check(line.as_bytes()), Ok(()), "{line}");
        }
        for line in [
            r#"{"method":"POST","url":"/v1/chat/completions"}"#,
            r#"{"method":"POST","url":"/v1/responses/resp_1"}"#,
            r#"{"method":"POST","url":"/v1/responses?after=x"}"#,
            r#"{"method":"POST","url":["/v1/responses"]}"#,
            r#"{"method":"GET","url":"/v1/responses"}"#,
            r#"{"method":"post","url":"/v1/responses"}"#,
            r#"{"url":"/v1/responses"}"#,
            r#"{"method":"POST"}"#,
            r#"{"method":"POST","url":"/v1/responses","url":"/v1/files"}"#,
            r#"{"method":"POST","url":"/v1/responses","URL":"/v1/files"}"#,
            r#"{"method":"POST","METHOD":"GET","url":"/v1/responses"}"#,
            "[]",
            "",
        ] {
            assert!(batch.check(line.as_bytes()).is_err(), "{line}");
        }
    }
}
