//! Prints the disposition of each parameter as Markdown, from the tables that the translators run on.

use std::fmt::Write;

use super::{Disposition, Rule, from_messages, from_responses, to_anthropic, to_ollama};

const TABLES: &[(&str, &str, &[Rule])] = &[
    (
        "Chat Completions → Anthropic",
        "A client of `/v1/chat/completions`, a provider of dialect `anthropic`.",
        to_anthropic::TABLE,
    ),
    (
        "Chat Completions → Ollama",
        "A client of `/v1/chat/completions`, a provider of dialect `ollama`.",
        to_ollama::TABLE,
    ),
    (
        "Anthropic Messages → Chat Completions",
        "A client of `/v1/messages`, a provider of dialect `openai`; for one of dialect `ollama` the table above follows. To a \
         provider of dialect `anthropic` everything passes byte for byte.",
        from_messages::TABLE,
    ),
    (
        "Responses → Chat Completions",
        "A client of `/v1/responses`, a provider without the Responses API (`providers.<name>.responses_api: false`); for one of \
         another dialect its table follows.",
        from_responses::TABLE,
    ),
];

/// The page `docs/dialects.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# What a translation does with each parameter\n\n\
         Printed by `can config dialects`, from the tables that the translators run on.\n\n\
         - **translated**: it is put into the provider's dialect.\n\
         - **dropped**: a hint that the dialect does not have. It is left out and named in the reply's `X-ChittyCan-Dropped` header; \
         a route with `strict: true` refuses it. A parameter that no table knows is dropped too.\n\
         - **refused**: the client relies on it and cannot have it: status 400, code `unsupported_parameter`, with its name.\n\n\
         `null` asks for nothing, and so do the values under *neutral*: with them a parameter is neither named nor refused.\n",
    );
    for (title, about, table) in TABLES {
        // Writing to a String cannot fail.
        let _ =
            write!(out, "\n## {title}\n\n{about}\n\n| Parameter | Disposition | Neutral | Note |\n|---|---|---|---|\n");
        for rule in *table {
            let neutral: Vec<_> = rule.neutral.iter().map(|text| format!("`{text}`")).collect();
            let disposition = match rule.disposition {
                Disposition::Translated => "translated",
                Disposition::Dropped => "dropped",
                Disposition::Refused => "refused",
            };
            let note = rule.note.replace('|', "\\|");
            let _ = writeln!(out, "| `{}` | {disposition} | {} | {note} |", rule.param, neutral.join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/dialects.md");
        let page = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == document(), "docs/dialects.md is out of date; run: scripts/docs.sh");
    }

    #[test]
    fn a_parameter_stands_in_its_table_once() {
        for (title, _, table) in TABLES {
            for (index, rule) in table.iter().enumerate() {
                assert!(!table[..index].iter().any(|other| other.param == rule.param), "{title}: {}", rule.param);
                assert!(!rule.note.is_empty() && !rule.note.contains('\n'), "{title}: {}", rule.param);
            }
        }
    }
}
