//! YAML as a tree of texts with their lines.
//!
//! A YAML library turns `0.075` into a binary fraction before anybody can ask for its text. Prices are exact decimals,
//! so this reads the parser's events and keeps every scalar as it was written. Anchors and tags are not needed in a
//! price file and are refused rather than half understood.

use std::borrow::Cow;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::Fault;

/// A value and the line it starts on, counted from 1.
#[derive(Debug)]
pub(super) struct Node<'a> {
    pub line: usize,
    pub value: Value<'a>,
}

#[derive(Debug)]
pub(super) enum Value<'a> {
    /// Nothing, `~` or `null`.
    Null,
    /// The text as written, without quotes.
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// In the order of the file; keys may repeat.
    Map(Vec<(Node<'a>, Node<'a>)>),
}

impl Value<'_> {
    /// For messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Text(_) => "a text or number",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Deeper than any price file; keeps the walk over the tree, which recurses, off the end of the stack.
const MAX_DEPTH: usize = 16;

/// Reads the only document of `text`; an empty text is [`Value::Null`].
///
/// # Errors
/// The first thing that is not YAML, or YAML that a price file has no use for. Reading stops there: what follows a
/// broken line means nothing.
pub(super) fn read(text: &str) -> Result<Node<'_>, Fault> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Fault::new(error.marker().line(), "", error.info()))?;
        let line = span.start.line();
        let refuse = |what: &str| Err(Fault::new(line, "", format!("{what} cannot be used in a price file")));
        let done = match event {
            Event::Scalar(_, _, anchor, ref tag)
            | Event::SequenceStart(anchor, ref tag)
            | Event::MappingStart(anchor, ref tag)
                if anchor != 0 || tag.is_some() =>
            {
                return refuse("an anchor or tag");
            }
            Event::Alias(_) => return refuse("an alias"),
            Event::DocumentStart(_) if root.is_some() => return refuse("a second document"),
            Event::SequenceStart(..) | Event::MappingStart(..) if open.len() == MAX_DEPTH => {
                return refuse("nesting this deep");
            }
            Event::Scalar(text, style, ..) => Node { line, value: scalar(text, style) },
            Event::SequenceStart(..) => {
                open.push(Open { node: Node { line, value: Value::List(Vec::new()) }, key: None });
                continue;
            }
            Event::MappingStart(..) => {
                open.push(Open { node: Node { line, value: Value::Map(Vec::new()) }, key: None });
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(open) => open.node,
                None => continue,
            },
            _ => continue,
        };
        match open.last_mut() {
            Some(parent) => parent.take(done),
            None => root = Some(done),
        }
    }
    Ok(root.unwrap_or(Node { line: 1, value: Value::Null }))
}

/// A list or mapping whose end has not come yet.
struct Open<'a> {
    node: Node<'a>,
    /// The key whose value comes next.
    key: Option<Node<'a>>,
}

impl<'a> Open<'a> {
    fn take(&mut self, child: Node<'a>) {
        match &mut self.node.value {
            Value::List(items) => items.push(child),
            Value::Map(entries) => match self.key.take() {
                Some(key) => entries.push((key, child)),
                None => self.key = Some(child),
            },
            Value::Null | Value::Text(_) => {}
        }
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" if style == ScalarStyle::Plain => Value::Null,
        _ => Value::Text(text),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keeps_texts_and_lines() {
        let node = read("# café\na: 0.10\nb: [1e-6, \"~\", ~]\n").unwrap();
        let Value::Map(entries) = &node.value else { panic!("{node:?}") };
        assert_eq!((entries[0].0.line, entries[1].0.line), (2, 3));
        assert!(matches!(&entries[0].1.value, Value::Text(text) if text == "0.10"));
        let Value::List(items) = &entries[1].1.value else { panic!("{node:?}") };
        assert!(matches!(&items[0].value, Value::Text(text) if text == "1e-6"));
        assert!(matches!(&items[1].value, Value::Text(text) if text == "~"));
        assert!(matches!(&items[2].value, Value::Null));
    }

    #[test]
    fn refuses_what_a_price_file_has_no_use_for() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        for (text, line) in [("a: &x 1\nb: 2", 1), ("a: 1\nb: !!str 2", 2), ("a: 1\n---\nb: 2", 2), ("\n\n}", 3)] {
            assert_eq!(read(text).unwrap_err().line, line, "{text}");
        }
        assert!(read(&deep).is_err());
        assert!(matches!(read("# nothing\n").unwrap().value, Value::Null));
    }
}
