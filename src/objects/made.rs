//! The ids in a reply: only ids at places where the provider itself writes them. A reply also repeats text of the client or of
//! a model (metadata, arguments of calls), and nobody must get an object by writing its id.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The strings at these paths of a JSON text. A path consists of member names, and `[]` for each element of a list, separated
/// by dots (`output.[].id`). A text that is no JSON yields none.
pub fn find(json: &[u8], paths: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let seek = Seek { paths: paths.to_vec(), found: &mut found };
    // Ids before a fault in the text count: the provider has created these objects.
    let _ = seek.deserialize(&mut reader);
    found
}

/// The ids of spoken answers in a chat completion, or in a chunk of one.
pub fn find_audio(json: &[u8]) -> Vec<String> {
    find(json, &["choices.[].message.audio.id", "choices.[].delta.audio.id"])
}

/// The body that a client has written, with the escapes of ASCII characters decoded.
#[derive(Clone, Debug, Default)]
pub struct Written(Bytes);

impl Written {
    /// Takes the body of a request, JSON or a form.
    pub fn new(body: Bytes) -> Self {
        let begins = |at: usize| matches!(&body[at + 1..], [b'/', ..] | [b'u', b'0', b'0', b'0'..=b'7', ..]);
        match memchr::memchr_iter(b'\\', &body).any(begins) {
            true => Self(unescape(&body).into()),
            false => Self(body),
        }
    }

    /// Whether an id may come from the client: the body contains it, or the id is not one of the plain words that providers
    /// generate, so that the body could contain it in another spelling.
    pub fn may_hold(&self, id: &str) -> bool {
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        id.is_empty() || !id.bytes().all(plain) || memchr::memmem::find(&self.0, id.as_bytes()).is_some()
    }
}

fn unescape(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let tail = &rest[at + 1..];
        let code = || u8::from_str_radix(std::str::from_utf8(tail.get(3..5)?).ok()?, 16).ok().filter(u8::is_ascii);
        let length = match tail {
            [b'/' | b'\\' | b'"', ..] => {
                out.push(tail[0]);
                1
            }
            [b'u', b'0', b'0', ..] if code().is_some() => {
                out.extend(code());
                5
            }
            _ => {
                out.push(b'\\');
                0
            }
        };
        rest = &tail[length..];
    }
    out.extend_from_slice(rest);
    out
}

struct Seek<'p, 'f> {
    /// The rest of each path from this value on; an empty rest means this value itself.
    paths: Vec<&'p str>,
    found: &'f mut Vec<String>,
}

impl<'p> Seek<'p, '_> {
    /// The rests of the paths after one more step.
    fn behind(&self, step: &str) -> Vec<&'p str> {
        let rest = |path: &&'p str| match path.split_once('.') {
            Some((first, rest)) => (first == step).then_some(rest),
            None => (*path == step).then_some(""),
        };
        self.paths.iter().filter_map(rest).collect()
    }

    fn take(self, text: &str) {
        if self.paths.iter().any(|path| path.is_empty()) && !text.is_empty() {
            self.found.push(text.to_owned());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seek<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            let paths = self.behind(&name);
            match paths.is_empty() {
                true => drop(map.next_value::<IgnoredAny>()?),
                false => map.next_value_seed(Seek { paths, found: &mut *self.found })?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let paths = self.behind("[]");
        if paths.is_empty() {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        }
        while list.next_element_seed(Seek { paths: paths.clone(), found: &mut *self.found })?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.take(text);
        Ok(())
    }

    wire::skip_scalars!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_places_count() {
        let json = br#"{"id":"resp_1","metadata":{"id":"file-theirs","output":[{"id":"x"}]},"conversation":{"id":"conv_1"},
            "output":[{"id":"msg_1","content":[{"text":"{\"id\":\"file-theirs\"}","annotations":[{"file_id":"cfile_1"}]}]},
            {"id":"ci_1","container_id":"cntr_1","arguments":{"file_id":"file-theirs"}},7,null],"result_files":["file-1","file-2"]}"#;
        let paths = [
            "id",
            "conversation",
            "conversation.id",
            "output.[].id",
            "output.[].container_id",
            "output.[].content.[].annotations.[].file_id",
            "result_files.[]",
            "metadata",
        ];
        let all = ["resp_1", "conv_1", "msg_1", "cfile_1", "ci_1", "cntr_1", "file-1", "file-2"];
        assert_eq!(find(json, &paths), all);
        assert_eq!(find(br#"{"conversation":"conv_2"}"#, &paths), ["conv_2"]);
        assert!(find(b"no JSON", &paths).is_empty() && find(b"", &paths).is_empty());
        assert_eq!(find(br#"{"id":"resp_2","output":["#, &paths), ["resp_2"], "what is cut off has been made");
    }

    #[test]
    fn what_a_client_wrote_is_found_in_any_writing() {
        for body in [
            r#"{"items":[{"id":"msg_1/x"}]}"#,
            r#"{"items":[{"id":"msg_1\/x"}]}"#,
            r#"{"items":[{"id":"\u006dsg\u005f1\u002fx"}]}"#,
            r#"{"items":[{"id":"\\\u006dsg_1\/x"}]}"#,
            r#"{"a":"\u00e9\n\\","id":"ms\u0067_1/x"}"#,
            "--b\r\n\r\nmsg_1/x\r\n--b--",
        ] {
            let written = Written::new(body.to_owned().into());
            assert!(written.may_hold("msg_1/x") && !written.may_hold("msg_2/x"), "{body}");
        }
        for body in ["", r#"{"x":"\u006"#, r#"{"x":"\"#, r#"\u00"#, "{\"x\":\"\\u00\u{e9}9\"}"] {
            assert!(!Written::new(body.to_owned().into()).may_hold("msg_1/x"), "{body}");
        }
        for id in ["", "msg 1", "msg_\u{e9}", "msg\n", "msg\"", "msg\\"] {
            assert!(Written::default().may_hold(id), "{id}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(find(br#"{"\u0069d":"file\u002d1"}"#, &["id"]), ["file-1"]);
    }
}
