//! Walks a JSON text and notes where its texts stand. One pass over JSON that was validated before; the depth of recursion
//! is limited to [`DEEPEST`].

use std::borrow::Cow;

use serde::de::IgnoredAny;

use super::{
    DEEPEST, Role, Text, TextKind, Unreadable, decode,
    table::{Meaning, MemberStep, Place},
};
use crate::openai::locate::{skip_space, string_end, value_end};

/// Most bytes of a key or word of the table, even with each of its characters written as an escape.
const LONGEST_WORD: usize = 256;

pub(super) struct Walk<'a> {
    json: &'a [u8],
    list: &'a mut Vec<Text>,
}

/// What an object says about its texts.
struct Told {
    /// Index of the object's first text in the list.
    first: usize,
    role: Option<Role>,
    meaning: Meaning,
    /// Offsets of the values of `data`.
    data: Vec<usize>,
}

impl<'a> Walk<'a> {
    /// Adds the texts of the object that `json` is.
    pub(super) fn over(json: &'a [u8], place: Place, list: &'a mut Vec<Text>) -> Result<(), Unreadable> {
        let text = std::str::from_utf8(json).map_err(|_| Unreadable::NotJson)?;
        // serde_json skips values with an explicit stack, so any depth is safe here.
        serde_json::from_str::<IgnoredAny>(text).map_err(|_| Unreadable::NotJson)?;
        let at = skip_space(json, 0);
        if json.get(at) != Some(&b'{') {
            return Err(Unreadable::NotJson);
        }
        let first = list.len();
        Walk { json, list }.object(at, place, 1)?;
        if !list[first..].is_sorted_by_key(|text| text.start) {
            list[first..].sort_unstable_by_key(|text| text.start);
        }
        Ok(())
    }

    /// Walks the value at an offset; returns the offset behind it.
    fn value(&mut self, at: usize, place: Place, depth: usize) -> Result<usize, Unreadable> {
        if depth > DEEPEST {
            return Err(Unreadable::TooDeep);
        }
        match self.json.get(at) {
            Some(b'{') => self.object(at, place, depth),
            Some(b'[') => {
                let mut at = skip_space(self.json, at + 1);
                while self.json.get(at) != Some(&b']') {
                    let end = self.value(at, place, depth + 1)?;
                    at = self.next(end);
                }
                Ok(at + 1)
            }
            Some(b'"') => {
                let end = self.end_of(at)?;
                if let Some((role, kind)) = place.text() {
                    self.note(at + 1, end - 1, role, kind);
                }
                Ok(end)
            }
            _ => self.end_of(at),
        }
    }

    fn object(&mut self, at: usize, place: Place, depth: usize) -> Result<usize, Unreadable> {
        let mut told = Told { first: self.list.len(), role: None, meaning: Meaning::Plain, data: Vec::new() };
        let mut at = skip_space(self.json, at + 1);
        while self.json.get(at) != Some(&b'}') {
            let key_end = string_end(self.json, at).ok_or(Unreadable::NotJson)?;
            let value_at = skip_space(self.json, skip_space(self.json, key_end) + 1);
            let end = match place.under(&self.word(at, key_end)) {
                MemberStep::Into(place) => self.value(value_at, place, depth + 1)?,
                MemberStep::Skip => self.end_of(value_at)?,
                MemberStep::Role => {
                    let end = self.end_of(value_at)?;
                    told.role = Some(Role::of(&self.word(value_at, end)));
                    end
                }
                MemberStep::Type => {
                    let end = self.end_of(value_at)?;
                    told.meaning = place.meaning(&self.word(value_at, end));
                    end
                }
                MemberStep::Data => {
                    told.data.push(value_at);
                    self.end_of(value_at)?
                }
            };
            at = self.next(end);
        }
        self.settle(place, &told, depth)?;
        Ok(at + 1)
    }

    /// Applies an object's own `role` and `type` to its texts, because these members may stand behind the texts.
    fn settle(&mut self, place: Place, told: &Told, depth: usize) -> Result<(), Unreadable> {
        if told.meaning == Meaning::Text {
            for at in &told.data {
                self.value(*at, place, depth + 1)?;
            }
        }
        let inherited = match place {
            Place::Event => (Role::Assistant, TextKind::Reply),
            _ => match place.text() {
                Some(inherited) => inherited,
                None => return Ok(()),
            },
        };
        let (role, kind) = match (told.meaning, told.role) {
            (Meaning::Sound, _) => {
                self.list.truncate(told.first);
                return Ok(());
            }
            (Meaning::ToolResult, _) => (Some(Role::Tool), Some(TextKind::ToolResult)),
            (Meaning::Kind(kind), role) => (role, Some(kind)),
            (_, Some(Role::Tool)) if inherited.1 == TextKind::Prompt => (Some(Role::Tool), Some(TextKind::ToolResult)),
            (_, role) => (role, None),
        };
        if role.is_none() && kind.is_none() {
            return Ok(());
        }
        for text in &mut self.list[told.first..] {
            if let Some(role) = role.filter(|_| text.role == inherited.0) {
                text.role = role;
            }
            if let Some(kind) = kind.filter(|_| text.kind == inherited.1) {
                text.kind = kind;
            }
        }
        Ok(())
    }

    fn note(&mut self, start: usize, end: usize, role: Role, kind: TextKind) {
        let is_media = || {
            let head = &self.json[start..end.min(start + LONGEST_WORD)];
            head.starts_with(b"data:") && memchr::memmem::find(head, b";base64,").is_some()
        };
        if start == end || kind == TextKind::Other && is_media() {
            return;
        }
        // The body's size was checked before.
        if let (Ok(start), Ok(end)) = (u32::try_from(start), u32::try_from(end)) {
            self.list.push(Text { role, kind, start, end });
        }
    }

    /// A key or word, decoded; empty, which the table does not have, for anything longer or not a string.
    fn word(&self, at: usize, end: usize) -> Cow<'a, str> {
        match &self.json[at..end] {
            quoted @ [b'"', .., b'"'] if quoted.len() <= LONGEST_WORD => decode(quoted),
            _ => Cow::Borrowed(""),
        }
    }

    fn end_of(&self, at: usize) -> Result<usize, Unreadable> {
        value_end(self.json, at).ok_or(Unreadable::NotJson)
    }

    /// Offset of the next element or member, or of the closing bracket.
    fn next(&self, end: usize) -> usize {
        let at = skip_space(self.json, end);
        if self.json.get(at) == Some(&b',') { skip_space(self.json, at + 1) } else { at }
    }
}
