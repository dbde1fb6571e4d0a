//! Lists without the objects of other tenants.
//!
//! A provider's page may contain nothing that a tenant may see, while a later page does. The official SDKs end a list at an
//! empty page and go on after the last element that they got, so a page must be filled: the provider is asked for one page
//! after the other until there are enough elements, or no more. The client's cursors are only ids of its own objects.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::refs::{Refused, decode};
use crate::openai::fold::folds_to;

/// The number of elements to ask a provider for in one page, unless the client wants more: the maximum of most lists.
const PAGE: usize = 100;

/// The position from which a list is read, from the client's query.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The parameters of the query as they came, without limit and cursor.
    rest: Vec<String>,
    /// The number of elements that the client wants.
    limit: Option<usize>,
    /// The name of the cursor's parameter, and its id.
    at: Option<(&'static str, String)>,
    anthropic: bool,
}

/// The parameters that contain a cursor, and whether they lead backwards.
const CURSORS: &[(&str, bool)] =
    &[("after", false), ("before", true), ("after_id", false), ("before_id", true), ("page", false)];

impl Cursor {
    /// Parses a query. `anthropic`: the list has the names of Anthropic's API.
    ///
    /// # Errors
    /// The limit is not a number above zero.
    pub fn of(query: &str, anthropic: bool) -> Result<Self, Refused> {
        let mut cursor = Self { rest: Vec::new(), limit: None, at: None, anthropic };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name, true), decode(value, true));
            let name = name.split('[').next().unwrap_or_default();
            if folds_to(name, "limit") {
                let limit = value.parse().ok().filter(|limit| *limit > 0);
                cursor.limit = Some(limit.ok_or(Refused::Unfit("limit", "must be a number above zero"))?);
                continue;
            }
            match CURSORS.iter().find(|(known, _)| folds_to(name, known)) {
                Some((known, _)) => cursor.at = Some((known, value.into_owned())),
                None => cursor.rest.push(pair.to_owned()),
            }
        }
        Ok(cursor)
    }

    /// The query for the next page.
    pub fn query(&self) -> String {
        let limit = self.limit.map(|limit| format!("limit={}", limit.max(PAGE)));
        let at = self.at.as_ref().map(|(name, id)| format!("{name}={}", utf8_percent_encode(id, RESERVED)));
        self.rest.iter().cloned().chain(limit).chain(at).collect::<Vec<_>>().join("&")
    }

    fn is_backwards(&self) -> bool {
        self.at.as_ref().is_some_and(|(name, _)| CURSORS.iter().any(|(known, back)| known == name && *back))
    }

    fn forward(&self) -> &'static str {
        if self.anthropic { "after_id" } else { "after" }
    }
}

/// All characters except letters, digits and `-._~`.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One page of a provider's reply.
#[derive(Debug)]
pub struct Page {
    envelope: Map<String, Value>,
    data: Vec<Value>,
}

impl Page {
    /// Parses a page; `None` if the body is no list.
    pub fn read(body: &[u8]) -> Option<Self> {
        let Value::Object(mut envelope) = serde_json::from_slice(body).ok()? else { return None };
        let Value::Array(data) = envelope.remove("data")? else { return None };
        Some(Self { envelope, data })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.envelope.get(name)?.as_str()
    }

    fn has_more(&self) -> bool {
        self.envelope.get("has_more").and_then(Value::as_bool).unwrap_or(self.text("next_page").is_some())
    }
}

/// The next step of reading a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageStep {
    /// Ask for the page that the cursor now names.
    More,
    /// The list is as long as the client wants, or at its end.
    Done,
}

/// The elements collected for the client.
#[derive(Debug)]
pub struct Collected {
    cursor: Cursor,
    data: Vec<Value>,
    envelope: Map<String, Value>,
    wanted: Option<usize>,
    has_more: bool,
}

impl Collected {
    /// An empty collection that begins at a cursor.
    pub fn new(cursor: Cursor) -> Self {
        let wanted = cursor.limit;
        Self { cursor, data: Vec::new(), envelope: Map::new(), wanted, has_more: false }
    }

    /// The position from which the list is read on.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// True if no element was collected so far.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Takes the elements of a page that `mine` accepts (given the id and the element).
    pub fn add(&mut self, page: Page, mut mine: impl FnMut(&str, &Value) -> bool) -> PageStep {
        let back = self.cursor.is_backwards();
        let more = page.has_more();
        let token = page.text("next_page").map(str::to_owned);
        let id = |element: Option<&Value>| Some(element?.get("id")?.as_str()?.to_owned());
        let edge = if back { id(page.data.first()) } else { id(page.data.last()) };
        // Without a limit the client gets as many elements as the provider returns at once.
        let wanted = *self.wanted.get_or_insert(page.data.len().max(1));
        let kept: Vec<Value> = page
            .data
            .into_iter()
            .filter(|element| element.get("id").and_then(Value::as_str).is_some_and(|id| mine(id, element)))
            .collect();
        if self.envelope.is_empty() {
            self.envelope = page.envelope;
        }
        match back {
            true => drop(self.data.splice(0..0, kept)),
            false => self.data.extend(kept),
        }
        // A page token may contain anything: the client gets none, but the whole list instead.
        if self.envelope.contains_key("next_page") {
            return self.turn("page", token.filter(|_| more));
        }
        if self.data.len() > wanted {
            match back {
                true => drop(self.data.drain(..self.data.len() - wanted)),
                false => self.data.truncate(wanted),
            }
            self.has_more = true;
            return PageStep::Done;
        }
        // `has_more` is computed from the tenant's own elements, because the provider counts everybody's.
        let name = match (back, &self.cursor.at) {
            (true, Some((name, _))) => name,
            _ => self.cursor.forward(),
        };
        self.turn(name, edge.filter(|_| more))
    }

    /// Goes on after `id`, unless it is the cursor already: the list would never end then.
    fn turn(&mut self, name: &'static str, id: Option<String>) -> PageStep {
        let next = id.map(|id| (name, id));
        if next.is_none() || next == self.cursor.at {
            return PageStep::Done;
        }
        self.cursor.at = next;
        PageStep::More
    }

    /// Stops asking the provider: the client may go on after the elements that it gets.
    pub fn break_off(&mut self) {
        self.has_more = true;
    }

    /// The list in the provider's envelope, of which only known members stay.
    pub fn into_body(self) -> bytes::Bytes {
        let id =
            |element: Option<&Value>| element.and_then(|element| element.get("id")).cloned().unwrap_or(Value::Null);
        let (first, last) = (id(self.data.first()), id(self.data.last()));
        let mut out = Map::new();
        for (name, value) in self.envelope.iter().filter(|(name, _)| *name == "object") {
            out.insert(name.clone(), value.clone());
        }
        out.insert("data".into(), Value::Array(self.data));
        for (name, value) in [("first_id", first), ("last_id", last), ("next_page", Value::Null)] {
            if self.envelope.contains_key(name) {
                out.insert(name.into(), value);
            }
        }
        out.insert("has_more".into(), json!(self.has_more));
        serde_json::to_vec(&out).unwrap_or_default().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider with 1,000 objects, every 37th of which is the tenant's, and a client that reads as the SDKs do.
    fn read_all(limit: Option<usize>, anthropic: bool) -> (Vec<String>, usize) {
        let all: Vec<String> = (0..1_000).map(|n| format!("file-{n}")).collect();
        let mine = |id: &str| id[5..].parse::<usize>().unwrap() % 37 == 36;
        let forward = if anthropic { "after_id" } else { "after" };
        let (mut got, mut after, mut asked) = (Vec::new(), None::<String>, 0);
        loop {
            let mut query = limit.map(|limit| format!("purpose=x&limit={limit}")).unwrap_or_default();
            after.iter().for_each(|id| query.push_str(&format!("&{forward}={id}")));
            let mut collected = Collected::new(Cursor::of(&query, anthropic).unwrap());
            loop {
                asked += 1;
                let query = collected.cursor().query();
                assert!(limit.is_none() || query.starts_with("purpose=x&limit="), "{query}");
                let value = |name: &str| {
                    query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}="))).map(str::to_owned)
                };
                let size = value("limit").map_or(20, |limit| limit.parse().unwrap());
                let from = value(forward).map_or(0, |id| all.iter().position(|other| *other == id).unwrap() + 1);
                let data: Vec<Value> = all[from..].iter().take(size).map(|id| json!({"id": id})).collect();
                let body = json!({"object": "list", "data": data, "has_more": from + size < all.len(),
                    "first_id": data[0]["id"], "last_id": data.last().unwrap()["id"], "total": 1000});
                if collected.add(Page::read(body.to_string().as_bytes()).unwrap(), |id, _| mine(id)) == PageStep::Done {
                    break;
                }
            }
            let reply: Value = serde_json::from_slice(&collected.into_body()).unwrap();
            assert!(reply.get("total").is_none());
            let data = reply["data"].as_array().unwrap();
            assert_eq!(reply["last_id"], data.last().map_or(Value::Null, |element| element["id"].clone()));
            let ids = data.iter().map(|element| element["id"].as_str().unwrap().to_owned());
            assert!(limit.is_none_or(|limit| ids.len() <= limit));
            got.extend(ids);
            if reply["has_more"] == false || data.is_empty() {
                return (got, asked);
            }
            after = got.last().cloned();
        }
    }

    #[test]
    fn pages_are_full_and_nothing_of_ones_own_is_lost() {
        let expected: Vec<String> = (0..1_000).filter(|n| n % 37 == 36).map(|n| format!("file-{n}")).collect();
        for (limit, anthropic) in
            [(Some(1), false), (Some(5), false), (Some(27), true), (Some(100), false), (None, false)]
        {
            let (got, asked) = read_all(limit, anthropic);
            assert_eq!(got, expected, "{limit:?}");
            assert!(asked < 100, "{asked}");
        }
    }

    #[test]
    fn a_limit_is_a_number_however_it_is_written() {
        for (query, expected) in [
            ("limit=5&purpose=x", "purpose=x&limit=100"),
            ("limit=%35%30%30", "limit=500"),
            ("%6cimit=500&limit=200", "limit=200"),
            ("LIMIT=500", "limit=500"),
            ("limit[]=500", "limit=500"),
            ("After=x", "after=x"),
            ("purpose=x", "purpose=x"),
        ] {
            assert_eq!(Cursor::of(query, false).unwrap().query(), expected, "{query}");
        }
        for query in
            ["limit=0", "limit=%30", "limit=-1", "limit=", "limit", "limit=x", "limit=1.5", "limit=1%00", "Limit=+1"]
        {
            assert!(matches!(Cursor::of(query, false), Err(Refused::Unfit("limit", _))), "{query}");
        }
    }

    #[test]
    fn there_is_more_only_where_more_is_ones_own() {
        for (own, expected) in [(vec![0], false), (vec![0, 1], true), (vec![0, 150], true), (vec![0, 299], true)] {
            let mut collected = Collected::new(Cursor::of("limit=1", false).unwrap());
            let mine = |id: &str, _: &Value| own.iter().any(|n| id == format!("file-{n}"));
            let mut from = 0;
            loop {
                let data: Vec<Value> = (from..300).take(100).map(|n| json!({"id": format!("file-{n}")})).collect();
                let page = json!({"data": data, "has_more": from + 100 < 300}).to_string();
                from += 100;
                if collected.add(Page::read(page.as_bytes()).unwrap(), mine) == PageStep::Done {
                    break;
                }
            }
            let reply: Value = serde_json::from_slice(&collected.into_body()).unwrap();
            assert_eq!(reply, json!({"data": [{"id": "file-0"}], "has_more": expected}), "{own:?}");
        }
    }

    #[test]
    fn backwards_the_nearest_come_last() {
        let mut collected = Collected::new(Cursor::of("before=x-9&limit=2", false).unwrap());
        let page = |ids: &[&str], more: bool| {
            let data: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
            Page::read(json!({"data": data, "has_more": more}).to_string().as_bytes()).unwrap()
        };
        let mine = |id: &str, _: &Value| id.starts_with("m-");
        assert_eq!(collected.add(page(&["x-5", "m-6", "x-7", "x-8"], true), mine), PageStep::More);
        assert_eq!(collected.cursor().query(), "limit=100&before=x-5");
        assert_eq!(collected.add(page(&["m-1", "m-2", "m-3", "x-4"], false), mine), PageStep::Done);
        let reply: Value = serde_json::from_slice(&collected.into_body()).unwrap();
        assert_eq!(reply, json!({"data": [{"id": "m-3"}, {"id": "m-6"}], "has_more": true}));
    }

    #[test]
    fn tokens_are_followed_and_kept_back() {
        let mut collected = Collected::new(Cursor::of("limit=1", true).unwrap());
        let page = |body: Value| Page::read(body.to_string().as_bytes()).unwrap();
        let first = page(json!({"data": [{"id": "a"}], "has_more": true, "next_page": "t/1"}));
        assert_eq!(collected.add(first, |_, _| true), PageStep::More);
        assert_eq!(collected.cursor().query(), "limit=100&page=t%2F1");
        let last = page(json!({"data": [{"id": "b"}, {"x": 1}], "has_more": false, "next_page": null}));
        assert_eq!(collected.add(last, |_, _| true), PageStep::Done);
        let reply: Value = serde_json::from_slice(&collected.into_body()).unwrap();
        assert_eq!(reply, json!({"data": [{"id": "a"}, {"id": "b"}], "next_page": null, "has_more": false}));
        assert!(Page::read(b"[]").is_none() && Page::read(br#"{"data":{}}"#).is_none() && Page::read(b"").is_none());
    }
}
