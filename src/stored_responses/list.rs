//! The input items of a response, as `GET /v1/responses/{id}/input_items` lists them.

use serde_json::{Map, Value, json};

use super::Response;

/// The requested page of a list of items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The id of the item after which the page begins; `None`: from the beginning.
    pub after: Option<String>,
    /// The most items of the page.
    pub limit: usize,
    /// True: the oldest item first; false: the newest first.
    pub ascending: bool,
}

/// A parameter with an invalid value: its name, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPage(pub &'static str, pub &'static str);

impl Page {
    /// Parses a query whose names and values are decoded.
    ///
    /// # Errors
    /// The first parameter with an invalid value.
    pub fn read<'a>(query: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, BadPage> {
        let mut page = Self { after: None, limit: 20, ascending: false };
        for (name, value) in query {
            match (name, value) {
                ("after", id) => page.after = Some(id.to_owned()),
                ("order", "asc") => page.ascending = true,
                ("order", "desc") => page.ascending = false,
                ("order", _) => return Err(BadPage("order", "`asc` or `desc`")),
                ("limit", number) => match number.parse() {
                    Ok(limit @ 1..=100) => page.limit = limit,
                    _ => return Err(BadPage("limit", "a number from 1 to 100")),
                },
                _ => {}
            }
        }
        Ok(page)
    }
}

/// One page of the list; `None` if there is no item with the id in `after`.
pub fn page(response: &Response, page: &Page) -> Option<Value> {
    let mut all: Vec<Value> =
        response.context().into_iter().enumerate().filter_map(|(at, item)| listed(&item.json, at)).collect();
    if !page.ascending {
        all.reverse();
    }
    let start = match &page.after {
        Some(id) => all.iter().position(|item| item["id"] == **id)? + 1,
        None => 0,
    };
    let has_more = all.len() > start + page.limit;
    let data: Vec<Value> = all.drain(start..).take(page.limit).collect();
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    let (first_id, last_id) = (id(data.first()), id(data.last()));
    Some(json!({"object": "list", "data": data, "first_id": first_id, "last_id": last_id, "has_more": has_more}))
}

/// An item in the form in which OpenAI lists it: with an id and a type, and with text as content parts.
fn listed(json: &str, at: usize) -> Option<Value> {
    let Ok(Value::Object(mut item)) = serde_json::from_str(json) else { return None };
    let mut shown = Map::new();
    let id = item.shift_remove("id").filter(Value::is_string);
    shown.insert("id".into(), id.unwrap_or_else(|| format!("item_{at}").into()));
    let kind = item.shift_remove("type").filter(Value::is_string);
    shown.insert("type".into(), kind.unwrap_or_else(|| "message".into()));
    if let Some(Value::String(text)) = item.get("content") {
        let kind = if item.get("role").is_some_and(|role| role == "assistant") { "output_text" } else { "input_text" };
        let mut part = json!({"type": kind, "text": text});
        if kind == "output_text" {
            part["annotations"] = json!([]);
        }
        item.insert("content".into(), json!([part]));
    }
    shown.append(&mut item);
    Some(shown.into())
}
