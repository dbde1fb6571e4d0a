//! Reads the YAML price list, and reports all faults at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::price::{ListedStep, ModelLimits};
use super::rates::Listed;
use super::{Catalogue, Price};
use crate::config::{Fault, Node, Path, PathStep, Yaml};
use crate::types::{NanoUsd, PicoUsd, ServiceTier};

/// Adds the entries of `text` to `catalogue`, which must not be used after an error.
pub(super) fn read_into(catalogue: &mut Catalogue, text: &str) -> Result<(), Vec<Fault>> {
    let mut walk = Walk::default();
    match Node::parse(text, &mut walk.faults) {
        Ok(root) => walk.file(&root, catalogue),
        Err(fatal) => walk.faults.push(fatal),
    }
    walk.faults.sort_by_key(|fault| fault.line);
    if walk.faults.is_empty() { Ok(()) } else { Err(walk.faults) }
}

/// A walk over the tree: the current place, and the faults so far.
#[derive(Default)]
struct Walk {
    path: Path,
    faults: Vec<Fault>,
    /// The entries of this file: an alias must not have the name of one of them.
    entries: BTreeSet<String>,
}

/// An entry of the list as read so far.
#[derive(Default)]
struct Entry {
    step: ListedStep,
    above: Vec<(u64, ListedStep)>,
    limits: ModelLimits,
    calls: Vec<(Box<str>, NanoUsd)>,
}

impl Walk {
    fn file(&mut self, root: &Node, catalogue: &mut Catalogue) {
        let mut aliases = None;
        self.each(root, |walk, key, node| match key {
            "models" => walk.models(node, catalogue),
            "calls" => {
                walk.each(node, |walk, provider, node| {
                    for (tool, price) in walk.calls(node) {
                        catalogue.insert_call(provider, tool, price);
                    }
                });
            }
            "aliases" => aliases = Some(node),
            _ => walk.fault(node.line, "is not known here; known are: models, calls, aliases"),
        });
        // Aliases are read last, whatever the order in the file, because an alias points to an entry.
        if let Some(node) = aliases {
            self.within(PathStep::Key("aliases".into()), |walk| walk.aliases(node, catalogue));
        }
    }

    fn models(&mut self, node: &Node, catalogue: &mut Catalogue) {
        self.each(node, |walk, name, node| {
            let price = walk.entry(node);
            match split(name) {
                Some((provider, model)) => {
                    catalogue.insert(provider, model, Arc::new(price));
                    walk.entries.insert(name.to_owned());
                }
                None => walk.fault(node.line, "must be named provider/model"),
            }
        });
    }

    fn aliases(&mut self, node: &Node, catalogue: &mut Catalogue) {
        let mut found = Vec::new();
        self.each(node, |walk, alias, target| {
            let Some((provider, model)) = split(alias) else {
                return walk.fault(target.line, "must be named provider/model");
            };
            if walk.entries.contains(alias) {
                return walk.fault(target.line, "has an entry of its own");
            }
            let Yaml::Text(name) = &target.value else {
                return walk.fault(target.line, format!("must be provider/model, not {}", target.kind()));
            };
            match split(name).and_then(|(provider, model)| catalogue.price(provider, model)) {
                Some(price) => found.push((provider.to_owned(), model.to_owned(), price.clone())),
                None => walk.fault(target.line, format!("points to {name}, which has no entry")),
            }
        });
        for (provider, model, price) in found {
            catalogue.insert(&provider, &model, price);
        }
    }

    fn entry(&mut self, node: &Node) -> Price {
        let mut entry = Entry::default();
        let is_mapping = self.each(node, |walk, key, node| match key {
            "max_input_tokens" => entry.limits.max_input_tokens = walk.tokens(node),
            "max_output_tokens" => entry.limits.max_output_tokens = walk.tokens(node),
            "max_tokens_per_second" => entry.limits.max_tokens_per_second = walk.tokens(node),
            "thinks" => entry.limits.thinks = walk.boolean(node),
            "above" => entry.above = walk.above(node),
            "calls" => entry.calls = walk.calls(node),
            _ => walk.step_key(
                &mut entry.step,
                key,
                node,
                "max_input_tokens, max_output_tokens, max_tokens_per_second, thinks, tiers, above, calls",
            ),
        });
        if is_mapping {
            self.require_rates(node.line, &entry.step);
        }
        Price::new(&entry.step, &entry.above, entry.limits).with_calls(entry.calls)
    }

    /// Prices of calls, by tool. Any name of a tool is accepted: the list may name tools that this version does not know.
    fn calls(&mut self, node: &Node) -> Vec<(Box<str>, NanoUsd)> {
        let mut calls = Vec::new();
        self.each(node, |walk, tool, node| {
            let price = match node.as_written() {
                Some(text) => text.parse::<NanoUsd>().map_err(|error| format!("{text:?} {error}")),
                None => Err(format!("must be a number, not {}", node.kind())),
            };
            match price {
                Ok(price) => calls.push((tool.into(), price)),
                Err(message) => walk.fault(node.line, format!("{message} (US dollars per call)")),
            }
        });
        calls
    }

    fn above(&mut self, node: &Node) -> Vec<(u64, ListedStep)> {
        let Yaml::List(items) = &node.value else {
            self.fault(node.line, format!("must be a list, not {}", node.kind()));
            return Vec::new();
        };
        let mut steps: Vec<(u64, ListedStep)> = Vec::with_capacity(items.len());
        for (index, item) in items {
            self.within(PathStep::Index(*index), |walk| {
                let (mut threshold, mut step) = (None, ListedStep::default());
                let is_mapping = walk.each(item, |walk, key, node| match key {
                    "prompt_tokens" => threshold = Some(walk.tokens(node)),
                    _ => walk.step_key(&mut step, key, node, "prompt_tokens, tiers"),
                });
                if !is_mapping {
                    return;
                }
                walk.require_rates(item.line, &step);
                match threshold {
                    None => walk.fault(item.line, "needs prompt_tokens"),
                    Some(None) => {} // said already
                    Some(Some(tokens)) if steps.iter().any(|(other, _)| *other == tokens) => {
                        walk.fault(item.line, format!("prompt_tokens: {tokens} is listed twice"));
                    }
                    Some(Some(tokens)) => steps.push((tokens, step)),
                }
            });
        }
        steps
    }

    /// Reads a key that entries and long-prompt steps have in common.
    fn step_key(&mut self, step: &mut ListedStep, key: &str, node: &Node, others: &str) {
        if key != "tiers" {
            return self.rate(&mut step.standard, key, node, others);
        }
        self.each(node, |walk, key, node| {
            let tier = match key {
                "flex" => ServiceTier::Flex,
                "priority" => ServiceTier::Priority,
                "batch" => ServiceTier::Batch,
                _ => return walk.fault(node.line, "is not known here; known are: flex, priority, batch"),
            };
            let mut listed = Listed::default();
            walk.each(node, |walk, key, node| walk.rate(&mut listed, key, node, ""));
            step.tiers.push((tier, listed));
        });
    }

    fn rate(&mut self, listed: &mut Listed, key: &str, node: &Node, others: &str) {
        let Some(slot) = listed.slot(key) else {
            let separator = if others.is_empty() { "" } else { ", " };
            return self
                .fault(node.line, format!("is not known here; known are: {}{separator}{others}", Listed::NAMES));
        };
        let rate = match node.as_written() {
            Some(text) => PicoUsd::from_usd_per_million(text).map_err(|error| format!("{text:?} {error}")),
            None => Err(format!("must be a number, not {}", node.kind())),
        };
        // A rate that cannot be read is not also reported as missing: the file is refused for it already.
        *slot = Some(rate.as_ref().copied().unwrap_or_default());
        if let Err(message) = rate {
            self.fault(node.line, format!("{message} (US dollars per million tokens)"));
        }
    }

    fn tokens(&mut self, node: &Node) -> Option<u64> {
        let digits = node.as_written().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        let number = digits.and_then(|text| text.parse().ok());
        if number.is_none() {
            self.fault(node.line, "must be a whole number of tokens");
        }
        number
    }

    fn boolean(&mut self, node: &Node) -> Option<bool> {
        match node.as_written() {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => {
                self.fault(node.line, "must be true or false");
                None
            }
        }
    }

    /// Reports missing rates for input or output, which would otherwise be free. Free has to be written as 0.
    fn require_rates(&mut self, line: u32, step: &ListedStep) {
        if !step.standard.prices_input() {
            self.fault(line, "needs input, 0 if it is free");
        }
        if !step.standard.prices_output() {
            self.fault(line, "needs output (or audio_output or image_output), 0 if it is free");
        }
    }

    /// Calls `visit` for each pair of a mapping, with its key on the path; null counts as an empty mapping.
    /// Returns whether the value was a mapping, so that the caller may report missing keys.
    fn each<'n>(&mut self, node: &'n Node, mut visit: impl FnMut(&mut Self, &'n str, &'n Node)) -> bool {
        match &node.value {
            Yaml::Map(entries) => {
                for (key, value) in entries {
                    self.within(PathStep::Key(key.clone()), |walk| visit(walk, key, value));
                }
            }
            Yaml::Null => {}
            _ => {
                self.fault(node.line, format!("must be a mapping, not {}", node.kind()));
                return false;
            }
        }
        true
    }

    fn within<T>(&mut self, step: PathStep, visit: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step);
        let result = visit(self);
        self.path.pop();
        result
    }

    fn fault(&mut self, line: u32, message: impl Into<String>) {
        self.faults.push(Fault { line: Some(line), path: self.path.to_string(), message: message.into() });
    }
}

/// Splits a name into provider and model; the model may contain further slashes.
fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('/').filter(|(provider, model)| !provider.is_empty() && !model.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        Catalogue::parse(text).unwrap_err().iter().map(Fault::to_string).collect()
    }

    #[test]
    fn reports_every_fault_with_its_place() {
        let text = "\
models:
  openai/a:
    input: two
    output: 1
    speed: 3
    tiers:
      batch: {input: -1}
      turbo: {input: 1}
    above:
      - prompt_tokens: 1e3
        input: 1
        output: 1
      - {input: 1, output: 1}
      - {prompt_tokens: 5, output: 1}
      - {input: 1}
      - 7
      - {prompt_tokens: 5, input: 1, output: 1}
  openai/a: {input: 1, output: 1}
  nameless: {input: 1, output: 1}
  openai/b: {output: 0.0000001}
  openai/c: [1]
aliases:
  x/y: openai/zzz
  openai/c: openai/a
prices: {}
";
        let found = faults(text);
        let wanted = [
            "3: models.openai/a.input: \"two\" is not a decimal number",
            "5: models.openai/a.speed: is not known here",
            "7: models.openai/a.tiers.batch.input: \"-1\" is below zero",
            "8: models.openai/a.tiers.turbo: is not known here",
            "10: models.openai/a.above[0].prompt_tokens: must be a whole number of tokens",
            "13: models.openai/a.above[1]: needs prompt_tokens",
            "14: models.openai/a.above[2]: needs input",
            "15: models.openai/a.above[3]: needs output",
            "15: models.openai/a.above[3]: needs prompt_tokens",
            "16: models.openai/a.above[4]: must be a mapping, not the number 7",
            "17: models.openai/a.above[5]: prompt_tokens: 5 is listed twice",
            "18: models.openai/a: this key is here already, on line 2",
            "19: models.nameless: must be named provider/model",
            "20: models.openai/b.output: \"0.0000001\" has more decimal places",
            "20: models.openai/b: needs input",
            "21: models.openai/c: must be a mapping, not a list",
            "23: aliases.x/y: points to openai/zzz, which has no entry",
            "24: aliases.openai/c: has an entry of its own",
            "25: prices: is not known here",
        ];
        assert_eq!(found.len(), wanted.len(), "{found:#?}");
        for (found, want) in found.iter().zip(wanted) {
            assert!(found.starts_with(want), "{want}\nis not the start of {found}");
        }
    }

    #[test]
    fn text_that_is_no_yaml_is_one_fault() {
        assert_eq!(Catalogue::parse("models:\n  a: [1").unwrap_err().len(), 1);
    }

    #[test]
    fn prices_are_read_as_written() {
        // 2^53 + 1 pico-USD per token, which no f64 holds.
        let text =
            "models:\n  a/b: {input: &in 0.100001, output: 9007199254.740993}\n  a/c: {input: *in, output: '3'}\n";
        let catalogue = Catalogue::parse(text).unwrap();
        let rates = |model| *catalogue.price("a", model).unwrap().rates(0, ServiceTier::Standard);
        assert_eq!((rates("b").input, rates("b").output), (PicoUsd(100_001), PicoUsd(9_007_199_254_740_993)));
        assert_eq!((rates("c").input, rates("c").output), (PicoUsd(100_001), PicoUsd(3_000_000)));
    }

    #[test]
    fn a_forgotten_side_is_a_fault_and_an_explicit_zero_is_not() {
        assert_eq!(faults("models: {a/b: {input: 1}}").len(), 1);
        assert_eq!(faults("models: {a/b: }").len(), 2);
        assert!(Catalogue::parse("models: {a/b: {input: 1, output: 0}}").is_ok());
        assert!(Catalogue::parse("").unwrap().is_empty());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(
            text in "(models:|aliases:|above:|tiers:|input:|output:|a/b:|[-\\[\\]{},:&*!|>'\"#~ \n]|[0-9é]){0,40}",
        ) {
            let _ = Catalogue::parse(&text);
        }
    }
}
