//! Tools that have another name or another kind in Chat than in the Responses API.

use std::collections::HashMap;

/// Most bytes of a function's name at OpenAI.
const LONGEST: usize = 64;
/// Number of digits of the hash that replaces the end of a name that is too long.
const DIGITS: usize = 8;

/// The tools of one request, by the name of the function that stands for each.
#[derive(Default)]
pub(super) struct Names(HashMap<String, Origin>);

/// A tool as the client defined it.
struct Origin {
    name: String,
    namespace: Option<String>,
    /// The tool takes free text instead of JSON.
    custom: bool,
}

impl Names {
    /// Notes a tool that takes free text or is in a namespace. Returns the name of its function.
    pub(super) fn note(&mut self, name: &str, namespace: Option<&str>, custom: bool) -> String {
        let function = function(name, namespace);
        let origin = Origin { name: name.to_owned(), namespace: namespace.map(str::to_owned), custom };
        self.0.insert(function.clone(), origin);
        function
    }

    /// Whether a function stands for a tool that takes free text.
    pub(super) fn is_custom(&self, function: &str) -> bool {
        self.0.get(function).is_some_and(|origin| origin.custom)
    }

    /// The tool's own name and namespace.
    pub(super) fn tool<'a>(&'a self, function: &'a str) -> (&'a str, Option<&'a str>) {
        match self.0.get(function) {
            Some(origin) => (&origin.name, origin.namespace.as_deref()),
            None => (function, None),
        }
    }
}

/// The name of the function that stands for a tool: Chat has no namespaces, so both names are joined.
pub(super) fn function(name: &str, namespace: Option<&str>) -> String {
    let Some(namespace) = namespace else { return name.to_owned() };
    let whole = format!("{namespace}__{name}");
    if whole.len() <= LONGEST {
        return whole;
    }
    let hash = blake3::hash(whole.as_bytes()).to_hex();
    let kept = whole.floor_char_boundary(LONGEST - DIGITS - 1);
    format!("{}_{}", &whole[..kept], &hash[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_leads_back_to_its_tool() {
        let mut names = Names::default();
        assert_eq!(names.note("close", Some("agents"), false), "agents__close");
        assert_eq!(names.note("patch", None, true), "patch");
        let long = names.note(&"x".repeat(80), Some("agents"), false);
        assert_eq!((long.len(), &long[..10]), (LONGEST, "agents__xx"));
        assert_eq!(names.tool("agents__close"), ("close", Some("agents")));
        assert_eq!(names.tool(&long), (&*"x".repeat(80), Some("agents")));
        assert_eq!(names.tool("other"), ("other", None));
        assert!(names.is_custom("patch") && !names.is_custom("agents__close") && !names.is_custom("other"));
    }
}
