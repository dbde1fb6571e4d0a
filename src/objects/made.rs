//! The ids in a reply: only those at places where the provider itself writes them. A reply also repeats what a client or a
//! model has written (metadata, arguments of calls), and nobody must get an object by writing its id.

use std::{borrow::Cow, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The strings at these paths of a JSON text: names of members, `[]` for each element of a list, with dots between them
/// (`output.[].id`). A text that is no JSON has none.
pub fn find(json: &[u8], paths: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut reader = serde_json::Deserializer::from_slice(json);
    let seek = Seek { paths: paths.to_vec(), found: &mut found };
    // What came before a fault counts: the provider has made it.
    let _ = seek.deserialize(&mut reader);
    found
}

/// The ids of spoken answers in a chat completion, or in a chunk of one.
pub fn find_audio(json: &[u8]) -> Vec<String> {
    find(json, &["choices.[].message.audio.id", "choices.[].delta.audio.id"])
}

struct Seek<'p, 'f> {
    /// What is left of each path from here; an empty one is this very value.
    paths: Vec<&'p str>,
    found: &'f mut Vec<String>,
}

impl<'p> Seek<'p, '_> {
    /// What is left behind one more step.
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

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
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
    fn escapes_are_read() {
        assert_eq!(find(br#"{"\u0069d":"file\u002d1"}"#, &["id"]), ["file-1"]);
    }
}
