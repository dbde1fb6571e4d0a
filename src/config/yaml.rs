//! YAML as a tree that remembers its lines.
//!
//! The tree is built directly from parser events: duplicate keys are found, and nesting, size and the expansion of aliases
//! are bounded, so that no text can exhaust the process. Numbers keep their text, because a price is an exact decimal, which
//! cannot be recovered from a binary fraction.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};
use serde_json::Value;

use super::fault::{Fault, Path, PathStep};

/// The deepest nesting that is accepted: more than any configuration needs.
const MAX_DEPTH: usize = 64;
/// The most nodes that are accepted, aliases counted in full: more than any configuration needs.
const MAX_NODES: usize = 200_000;

/// A value and the line it starts on (from 1).
#[derive(Clone, Debug)]
pub struct Node {
    /// Line of the value's first character; for a value in a mapping, the line of its key.
    pub line: u32,
    /// A number's or boolean's text in the file; `None` for everything else. Read it through [`Node::as_written`].
    source: Option<Box<str>>,
    /// The value.
    pub value: Yaml,
}

/// A YAML value of the core schema.
#[derive(Clone, Debug)]
pub enum Yaml {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Text(String),
    /// Items with their index in the file, which stays when faulty neighbours are removed.
    List(Vec<(usize, Node)>),
    /// Keys and values in file order.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Parses one document. Empty text is an empty mapping. Duplicate keys are reported through `faults`, and the first one is
    /// used; `Err` is a fault after which nothing more can be read.
    pub fn parse(text: &str, faults: &mut Vec<Fault>) -> Result<Node, Fault> {
        let parser = Parser::new_from_str(text);
        Composer { parser, anchors: HashMap::new(), nodes: 0, path: Path::default(), faults }.document()
    }

    /// The value as JSON, for serde.
    pub fn to_json(&self) -> Value {
        match &self.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(value) => Value::Bool(*value),
            Yaml::Int(value) => Value::from(*value),
            Yaml::Float(value) => Value::from(*value),
            Yaml::Text(text) => Value::from(text.as_str()),
            Yaml::List(items) => items.iter().map(|(_, node)| node.to_json()).collect(),
            Yaml::Map(entries) => entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect(),
        }
    }

    /// The text of a scalar as written in the file, without quotes and escapes; `None` for null, lists and mappings.
    pub fn as_written(&self) -> Option<&str> {
        match &self.value {
            Yaml::Text(text) => Some(text),
            _ => self.source.as_deref(),
        }
    }

    /// A description of the value for messages that say what was found. Text is not repeated, because it may be a secret.
    pub fn kind(&self) -> String {
        match &self.value {
            Yaml::Null => "nothing".into(),
            Yaml::Bool(value) => format!("`{value}`"),
            Yaml::Int(value) => format!("the number {value}"),
            Yaml::Float(value) => format!("the number {value}"),
            Yaml::Text(_) => "text".into(),
            Yaml::List(_) => "a list".into(),
            Yaml::Map(_) => "a mapping".into(),
        }
    }

    /// The value under `key`, if this is a mapping that has the key.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Yaml::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }
}

struct Composer<'a, 'f> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    /// The place in the tree.
    path: Path,
    faults: &'f mut Vec<Fault>,
}

impl<'a> Composer<'a, '_> {
    fn document(&mut self) -> Result<Node, Fault> {
        let mut root: Option<Node> = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentEnd | Event::Nothing => {}
                Event::DocumentStart(_) => {
                    if root.is_some() {
                        return Err(fault(line(&span), "a second document starts here; the file must hold one"));
                    }
                }
                event => root = Some(self.node(event, span)?),
            }
        }
        match root {
            None | Some(Node { value: Yaml::Null, .. }) => {
                Ok(Node { line: 1, source: None, value: Yaml::Map(Vec::new()) })
            }
            Some(root) => Ok(root),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Fault> {
        match self.parser.next_event() {
            None => Ok((Event::StreamEnd, Span::default())),
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(fault(
                u32::try_from(error.marker().line()).unwrap_or(u32::MAX).max(1),
                format!("not valid YAML: {} (column {})", error.info(), error.marker().col() + 1),
            )),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Fault> {
        let line = line(&span);
        if self.path.depth() > MAX_DEPTH {
            return Err(fault(line, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, line)?;
        let mut source = None;
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref(), line)?;
                if !matches!(value, Yaml::Null | Yaml::Text(_)) {
                    source = Some(text.into());
                }
                (value, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                (self.list()?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.as_deref(), line)?;
                (self.map()?, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| fault(line, "an alias to an anchor that is not complete yet"))?;
                self.count(size(&node), line)?;
                source = node.source;
                (node.value, 0)
            }
            _ => return Err(fault(line, "not valid YAML: a value was expected")),
        };
        let node = Node { line, source, value };
        if anchor != 0 {
            self.count(size(&node), line)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Yaml, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::SequenceEnd => return Ok(Yaml::List(items)),
                event => {
                    self.path.push(PathStep::Index(items.len()));
                    let node = self.node(event, span)?;
                    self.path.pop();
                    items.push((items.len(), node));
                }
            }
        }
    }

    fn map(&mut self) -> Result<Yaml, Fault> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen: HashMap<String, u32> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let line = line(&span);
            let key = match event {
                Event::MappingEnd => return Ok(Yaml::Map(entries)),
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(fault(
                        line,
                        "a key must be plain text; quote it if it starts with `*`, `&`, `{` or `[`",
                    ));
                }
            };
            let (event, span) = self.next()?;
            self.path.push(PathStep::Key(key.clone()));
            let mut node = self.node(event, span)?;
            node.line = line;
            match seen.get(&key) {
                Some(first) => {
                    let message = format!("this key is here already, on line {first}");
                    self.faults.push(Fault { path: self.path.to_string(), line: Some(line), message });
                }
                None => {
                    seen.insert(key.clone(), line);
                    entries.push((key, node));
                }
            }
            self.path.pop();
        }
    }

    fn count(&mut self, nodes: usize, line: u32) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        match self.nodes > MAX_NODES {
            true => Err(fault(line, format!("more than {MAX_NODES} values, aliases counted in full"))),
            false => Ok(()),
        }
    }
}

/// The core schema of YAML 1.2: `on`, `yes` and `off` are text.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, line: u32) -> Result<Yaml, Fault> {
    let is_text = match tag {
        None => style != ScalarStyle::Plain,
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => true,
        Some(_) => return refuse_tag(tag, line).map(|()| Yaml::Null),
    };
    if is_text {
        return Ok(Yaml::Text(text.into()));
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Yaml::Null,
        "true" | "True" | "TRUE" => Yaml::Bool(true),
        "false" | "False" | "FALSE" => Yaml::Bool(false),
        _ => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(value), _) => Yaml::Int(value),
            (_, Ok(value)) if value.is_finite() && !text.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                Yaml::Float(value)
            }
            _ => Yaml::Text(text.into()),
        },
    })
}

fn refuse_tag(tag: Option<&Tag>, line: u32) -> Result<(), Fault> {
    match tag {
        None => Ok(()),
        Some(_) => Err(fault(line, "tags (`!name`) have no meaning here; quote the text if it is meant literally")),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Yaml::List(items) => items.iter().map(|(_, node)| size(node)).sum(),
        Yaml::Map(entries) => entries.iter().map(|(_, node)| size(node)).sum(),
        _ => 0,
    }
}

fn line(span: &Span) -> u32 {
    u32::try_from(span.start.line()).unwrap_or(u32::MAX).max(1)
}

fn fault(line: u32, message: impl Into<String>) -> Fault {
    Fault { path: String::new(), line: Some(line), message: message.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> (Result<Value, Fault>, Vec<Fault>) {
        let mut faults = Vec::new();
        let node = Node::parse(text, &mut faults);
        (node.map(|node| node.to_json()), faults)
    }

    #[test]
    fn reads_the_core_schema() {
        let (value, faults) = read("a: 1\nb: [x, \"2\", 1.5, true, ~, off, -3]\nc: {d: 'it''s', e: }\n5: !!str 6\n");
        assert_eq!(
            value.unwrap(),
            json!({"a": 1, "b": ["x", "2", 1.5, true, null, "off", -3], "c": {"d": "it's", "e": null}, "5": "6"})
        );
        assert!(faults.is_empty());
        for empty in ["", "\n# only a comment\n", "---\n", "~"] {
            assert_eq!(read(empty).0.unwrap(), json!({}), "{empty:?}");
        }
    }

    #[test]
    fn keeps_what_stands_in_the_file() {
        let mut faults = Vec::new();
        let text = "a: &a 0.10\nb: [1e-6, 0x10, True, \"~\", 'x', ~, {}]\nc: *a\nd: 123456789012345678901\n";
        let root = Node::parse(text, &mut faults).unwrap();
        let written = |key: &str| root.get(key).unwrap().as_written().map(str::to_owned);
        assert_eq!((written("a"), written("c")), (Some("0.10".into()), Some("0.10".into())));
        assert_eq!((written("b"), written("d")), (None, Some("123456789012345678901".into())));
        let Yaml::List(items) = &root.get("b").unwrap().value else { panic!("a list") };
        let items: Vec<_> = items.iter().map(|(_, item)| item.as_written()).collect();
        assert_eq!(items, [Some("1e-6"), Some("0x10"), Some("True"), Some("~"), Some("x"), None, None]);
    }

    #[test]
    fn knows_its_lines() {
        let mut faults = Vec::new();
        let root = Node::parse("a: 1\n\nb:\n  - x\n  - c:\n      d\n", &mut faults).unwrap();
        assert_eq!(root.get("a").unwrap().line, 1);
        let Yaml::List(items) = &root.get("b").unwrap().value else { panic!("a list") };
        assert_eq!((items[0].1.line, items[1].1.line), (4, 5));
        assert_eq!(items[1].1.get("c").unwrap().line, 5);
    }

    #[test]
    fn reports_what_it_cannot_read() {
        let (value, faults) = read("a: 1\nb: {c: 2, c: 3}\na: 2\n");
        assert_eq!(value.unwrap(), json!({"a": 1, "b": {"c": 2}}));
        let shown: Vec<_> = faults.iter().map(|fault| (fault.path.as_str(), fault.line)).collect();
        assert_eq!(shown, [("b.c", Some(2)), ("a", Some(3))]);
        for (text, line, part) in [
            ("a: 1\nb: [1\nc: 2\n", 3, "not valid YAML"),
            ("a: 1\n---\nb: 1\n", 2, "second document"),
            ("a: !secret x\n", 1, "tags"),
            ("? [x]\n: 1\n", 1, "key must be plain text"),
        ] {
            let fault = read(text).0.unwrap_err();
            assert_eq!(fault.line, Some(line), "{text}: {fault}");
            assert!(fault.message.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn bounds_depth_and_expansion() {
        for deep in ["[".repeat(100_000), "{a: ".repeat(5_000), "- ".repeat(20_000)] {
            assert!(read(&deep).0.is_err());
        }
        let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let previous = format!("*a{}, ", i - 1).repeat(10);
            laughs.push_str(&format!("a{i}: &a{i} [{}]\n", previous.trim_end_matches(", ")));
        }
        assert!(read(&laughs).0.unwrap_err().message.contains("aliases counted"));
    }
}
