//! Counts the tokens of a request after its end, if its provider does not report them.

use std::sync::Arc;

use super::{
    BillableFailure, Measure,
    prompt::{Prompt, PromptTokens, Writes},
    stream_meter::{Counting, estimate, has_price},
};
use crate::{
    capacity::Capacity,
    ledger::Basis,
    openai::{Piece, read_prompt},
    pricing::Price,
    tokenizer,
    types::{NanoUsd, ServiceTier, Usage},
};

/// A chat message has about this many tokens around its text (OpenAI's cookbook, "How to count tokens").
const PER_MESSAGE: u64 = 4;

/// Likely tokens of the prompt in a request body, by the model's tokenizer: the answer to a client that asks for a count. Blocks.
pub fn count_prompt(model: &str, body: &[u8]) -> u64 {
    let mut tokens: u64 = 0;
    let read = read_prompt(body, &mut |piece| {
        tokens += match piece {
            Piece::Text(text) => tokenizer::count(model, text),
            Piece::Number => 1,
            Piece::Message => PER_MESSAGE,
        };
    });
    match read {
        Ok(()) => tokens,
        // A body that is no JSON, or is nested too deep, is counted as plain text.
        Err(_) => tokenizer::count(model, &String::from_utf8_lossy(body)),
    }
}

/// What a request used and cost.
#[derive(Clone, Copy, Debug)]
pub struct Settled {
    /// LLM tokens.
    pub usage: Option<Usage>,
    /// `None` where the model has no price.
    pub cost: Option<NanoUsd>,
    /// Where the cost comes from.
    pub basis: Basis,
}

/// Everything that is needed to count the tokens of a request before it can be closed.
pub struct Count {
    /// The request's prompt.
    pub prompt: Prompt,
    /// The model whose tokenizer counts the text.
    pub model: Arc<str>,
    /// How the prompt is counted; `None` if no attempt was made.
    pub measure: Option<Measure>,
    /// Text that was generated and seen, and is not counted yet.
    pub text: String,
    /// Bytes of all text that was generated and seen: a token of another vendor's model has at least one.
    pub bytes: u64,
    /// Tokens of the answer that are counted already.
    pub counted: u64,
    /// Portions that are being counted.
    pub counting: Vec<Counting>,
    /// The pools that the counting runs on.
    pub capacity: Arc<Capacity>,
    /// Likely tokens of the prompt, by its size.
    pub prompt_estimate: u64,
    /// Tokens that may have been generated in all, seen or not.
    pub unseen: u64,
    /// Something other than text may have been generated.
    pub media: bool,
    /// The most that the unseen part can cost.
    pub ceiling: NanoUsd,
    /// The model's price.
    pub price: Option<Arc<Price>>,
    /// The tiers that the request may be charged in.
    pub tiers: [ServiceTier; 2],
    /// The provider's count so far when the stream ended, as far as it is believed.
    pub so_far: Option<Usage>,
    /// What the last attempt cost, if that is known already.
    pub known: Option<Settled>,
    /// For a stream with the provider's tools whose client left: its bound.
    pub cut: Option<Cut>,
    /// Attempts that broke before the last one.
    pub billable_failures: Vec<BillableFailure>,
}

/// The most that a stream with the provider's tools has used until its client left, besides what it generated.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Prompt tokens of all the model's readings of the prompt.
    pub prompt_tokens: u64,
    /// Cost of the tool calls.
    pub calls: NanoUsd,
}

/// The most that a usage can cost whose parts nobody has reported: tokens written to the prompt cache, images, thinking, sound.
/// `prompt` is `None` if the provider has reported the parts of the prompt.
fn dearest(
    price: &Price,
    usage: &Usage,
    prompt: Option<PromptTokens>,
    media: bool,
    tiers: [ServiceTier; 2],
) -> NanoUsd {
    let (mut prompts, mut most) = (vec![*usage], NanoUsd::ZERO);
    if let Some(PromptTokens { tokens, images, writes }) = prompt {
        let image = Usage { image_prompt_tokens: images, ..*usage };
        prompts[0] = image;
        if writes != Writes::Nothing {
            prompts.push(Usage { cache_write_tokens: tokens, ..*usage });
        }
        if writes == Writes::Long {
            prompts.push(Usage { cache_write_1h_tokens: tokens, ..*usage });
        }
    }
    let completion = usage.completion_tokens;
    for usage in prompts {
        let thought = Usage { reasoning_tokens: completion, ..usage };
        let sound = Usage { audio_completion_tokens: if media { completion } else { 0 }, ..usage };
        for (usage, tier) in [usage, thought, sound].iter().flat_map(|usage| tiers.map(|tier| (usage, tier))) {
            most = most.max(price.cost(usage, tier));
        }
    }
    most
}

impl Count {
    /// Counts on the parsing pool.
    pub async fn count(self) -> Settled {
        let Self { prompt, model, measure, text, counted, counting, .. } = self;
        let mut shown = counted;
        for (portion, bytes) in counting {
            shown = shown.saturating_add(portion.await.ok().and_then(Result::ok).unwrap_or(bytes));
        }
        let exact = measure.as_ref().is_some_and(Measure::is_exact);
        // Counting takes time, so it is left out if the result is known.
        let is_known = self.known.is_some();
        let own = measure.filter(|_| !is_known && self.so_far.is_none() && self.cut.is_none());
        let measures: Vec<Measure> = self.billable_failures.iter().map(|failure| failure.measure.clone()).collect();
        let (most, text_bytes) = (prompt.most(), text.len() as u64);
        let (prompt, rest, prompts) = if has_price(self.price.as_deref()) || !measures.is_empty() {
            let counted = self.capacity.parsing.run_surely(move || {
                let mut prompts = Prompts { prompt, known: Vec::new() };
                let own = own.map(|measure| prompts.count(&measure));
                let rest = if is_known { 0 } else { tokenizer::count(&model, &text) };
                (own, rest, measures.iter().map(|measure| prompts.count(measure)).collect::<Vec<_>>())
            });
            let unknown = |_| {
                let most = PromptTokens { tokens: most, images: 0, writes: Writes::Long };
                // A token is at least a byte.
                (Some(most), text_bytes, self.billable_failures.iter().map(|_| most).collect())
            };
            counted.await.unwrap_or_else(unknown)
        } else {
            let likely = PromptTokens { tokens: self.prompt_estimate, images: 0, writes: Writes::Nothing };
            (Some(likely), estimate(text_bytes), Vec::new())
        };
        let mut shown = shown.saturating_add(rest);
        if !exact {
            // Another vendor's tokenizer may count more than the gateway's tokenizer does.
            shown = tokenizer::with_margin(shown).min(self.bytes);
        }
        let usage = match self.so_far {
            Some(usage) => Usage { completion_tokens: usage.completion_tokens.max(shown), ..usage },
            None => {
                let prompt_tokens = prompt.map_or(0, |prompt| prompt.tokens);
                Usage { prompt_tokens, completion_tokens: shown, ..Usage::default() }
            }
        };
        let (tiers, media) = (self.tiers, self.media);
        let mut settled = match (self.known, self.price) {
            (Some(known), _) => known,
            (None, Some(price)) if let Some(Cut { prompt_tokens, calls }) = self.cut => {
                let completion_tokens = usage.completion_tokens.max(self.unseen);
                let tokens =
                    tiers.map(|tier| price.worst_case(prompt_tokens, completion_tokens, tier)).into_iter().max();
                let cost = tokens.unwrap_or_default().saturating_add(calls);
                let usage = Usage { prompt_tokens, completion_tokens, ..Usage::default() };
                Settled { usage: Some(usage), cost: Some(cost.min(self.ceiling)), basis: Basis::Bounded }
            }
            (None, Some(price)) => {
                let cost = dearest(&price, &usage, prompt, media, tiers);
                let most = Usage { completion_tokens: usage.completion_tokens.max(self.unseen), ..usage };
                let at_most = dearest(&price, &most, prompt, media, tiers).min(self.ceiling);
                match at_most > cost {
                    true => Settled { usage: Some(most), cost: Some(at_most), basis: Basis::Bounded },
                    false => Settled { usage: Some(usage), cost: Some(cost), basis: Basis::Counted },
                }
            }
            (None, None) => Settled { usage: Some(usage), cost: None, basis: Basis::Unpriced },
        };
        for (failure, prompt) in self.billable_failures.into_iter().zip(prompts) {
            let BillableFailure { price, unbounded, generated, worst_case, .. } = failure;
            let lost = Usage { prompt_tokens: prompt.tokens, completion_tokens: generated, ..Usage::default() };
            let lost_cost = match unbounded {
                true => worst_case,
                false => dearest(&price, &lost, Some(prompt), media, tiers).min(worst_case),
            };
            let cost = settled.cost.unwrap_or_default().saturating_add(lost_cost);
            let usage = settled.usage.unwrap_or_default();
            let prompt_tokens = usage.prompt_tokens.saturating_add(lost.prompt_tokens);
            let completion_tokens = usage.completion_tokens.saturating_add(lost.completion_tokens);
            settled.usage = Some(Usage { prompt_tokens, completion_tokens, ..usage });
            settled.cost = Some(cost);
            if settled.basis == Basis::Nothing {
                settled.basis = if lost.completion_tokens > 0 { Basis::Bounded } else { Basis::Counted };
            }
        }
        settled
    }
}

/// A prompt as several models count it, counted once for each.
struct Prompts {
    prompt: Prompt,
    known: Vec<(Measure, PromptTokens)>,
}

impl Prompts {
    fn count(&mut self, measure: &Measure) -> PromptTokens {
        if let Some((_, tokens)) = self.known.iter().find(|(known, _)| known == measure) {
            return *tokens;
        }
        let tokens = self.prompt.count(measure);
        self.known.push((measure.clone(), tokens));
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_prompt_is_counted_text_by_text() {
        let body = serde_json::json!({
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "hello world"}],
            "metadata": {"note": "this is no prompt and does not count at all"},
        });
        // "user", "hello world" and what stands around a message.
        assert_eq!(count_prompt("gpt-4o", body.to_string().as_bytes()), 1 + 2 + PER_MESSAGE);
        assert_eq!(count_prompt("text-embedding-3-small", br#"{"input": [[1, 2, 3], [4]]}"#), 4);
        // What is nested too deep counts as the text that it is.
        let deep = format!(r#"{{"input":{}{}}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(count_prompt("gpt-4o", deep.as_bytes()), tokenizer::count("gpt-4o", &deep));
    }
}
