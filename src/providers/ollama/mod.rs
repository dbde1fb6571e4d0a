//! Context lengths of Ollama's models. Ollama silently cuts a prompt that is longer than the context its model runs with. A
//! request to its own API can ask for a longer context, one to its `/v1` endpoint cannot. So with its own API the gateway asks
//! for as much context as the prompt needs; and the gateway refuses a prompt that cannot fit, with an error that says how to make
//! it fit.
//!
//! How the context in effect is found, for a prompt that is long enough to matter:
//! 1. `POST /api/show`: if the Modelfile has a `num_ctx`, it decides; the model's own maximum bounds it.
//! 2. Otherwise the server's default decides, and only a running model shows it: the model is loaded as the request itself
//!    would load it, and `GET /api/ps` is read. Loading comes first even if the model runs already: a client of Ollama's
//!    native API may have loaded it with another `num_ctx`, and Ollama would load it anew for the request.
//!
//! If Ollama does not answer these queries, the request is forwarded as it is and a warning is logged.

mod api;
mod estimate;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

pub use estimate::prompt_tokens;

use super::adapter;
use crate::{
    capacity::{Capacity, THREAD_PATIENCE},
    config::Provider,
    error::{Fault, GatewayError},
    openai::{Endpoint, Peek},
};

/// How long an answer is used without new queries.
const FRESH: Duration = Duration::from_secs(60);
/// How long Ollama is not asked again after it gave no answer.
const SILENCE: Duration = Duration::from_secs(10);
/// Prompts up to this many tokens fit the default of every Ollama (2048 in old versions, 4096 and more since) and never need a
/// query.
const SHORT_PROMPT: u64 = 2048;
/// Like [`SHORT_PROMPT`] for embeddings, whose models may take as little as 256 tokens (`all-minilm`).
const SHORT_INPUT: u64 = 256;
/// Tokens that are kept free for a reply: the client's limit, within these bounds. A client's limit does not mean that it expects
/// a reply that long, and a reply that runs out of context ends with `finish_reason: length`.
const REPLY: std::ops::RangeInclusive<u64> = 1024..=8192;
/// How long a longer context is kept for shorter requests too.
const RAISED: Duration = Duration::from_secs(300);
/// Models that are remembered at once. Clients may choose names, so there is a limit.
const REMEMBERED: usize = 1024;
/// Bodies above this size, in bytes, are read on the threads of a pool: a long read must not delay other requests' events.
const READ_INLINE: usize = 256 << 10;

/// The known context lengths of the models of each Ollama server.
pub struct ContextLengths {
    capacity: Arc<Capacity>,
    /// By base URL and model.
    slots: Mutex<HashMap<(String, String), Arc<Slot>>>,
}

/// The state of one model. Its lock is held while Ollama is asked, so that one query serves all requests that wait.
#[derive(Default)]
struct Slot {
    answer: AsyncMutex<Option<Answer>>,
    warned: AtomicBool,
    /// The longest context that was needed lately, and when. Ollama reloads a model when the context changes, so requests that
    /// follow a long one ask for that context too for a while.
    raised: Mutex<Option<(u64, Instant)>>,
}

struct Answer {
    /// `None`: Ollama did not answer.
    lengths: Option<Lengths>,
    at: Instant,
}

/// Context lengths of one model, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lengths {
    /// The context that the model runs with; `None` while it is the server's default and the model was not loaded to read it.
    running: Option<u64>,
    /// The model's own maximum.
    maximum: Option<u64>,
}

/// What may be done to find a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effort {
    /// Queries only.
    Ask,
    /// Load the model too. Models for embeddings refuse to be loaded for text.
    Load { for_embeddings: bool },
}

impl ContextLengths {
    /// An empty table. Large bodies are read on the threads of `capacity`.
    pub fn new(capacity: Arc<Capacity>) -> Self {
        Self { capacity, slots: Mutex::default() }
    }

    /// The context to ask for, if the provider is asked in Ollama's own dialect and `model` has to run with a longer context than
    /// it does. Refuses a request that does not fit.
    ///
    /// The prompt, estimated by [`prompt_tokens`], has to fit together with the reply's `max_tokens`, as with OpenAI. Short
    /// prompts pass without a query, whatever reply they want: a reply that runs into the limit ends with `finish_reason:
    /// length`, so nothing is cut silently. An array of texts to embed is as long as its longest member.
    ///
    /// Waits for at most five seconds per query, and up to the provider's read timeout for a model to load.
    ///
    /// # Errors
    /// [`Fault::ContextLengthExceeded`], naming both numbers, the model's maximum and how to raise the limit.
    pub async fn check(
        &self,
        provider: &Provider,
        model: &str,
        endpoint: &Endpoint,
        body: &Bytes,
        peek: &Peek,
    ) -> Result<Option<u64>, GatewayError> {
        let (short, param) = match endpoint {
            Endpoint::ChatCompletions | Endpoint::Messages => (SHORT_PROMPT, "messages"),
            Endpoint::Completions => (SHORT_PROMPT, "prompt"),
            Endpoint::Responses => (SHORT_PROMPT, "input"),
            Endpoint::Embeddings => (SHORT_INPUT, "input"),
            _ => return Ok(None),
        };
        let asks = adapter::of(provider).facts().takes_context
            && matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Messages | Endpoint::Responses);
        let slot = self.slot(provider, model);
        let raised = slot.raised().filter(|_| asks);
        // The estimate for the whole body is at least that for its prompt.
        if estimate::tokens(body.len()) <= short {
            return Ok(raised);
        }
        let embeds = *endpoint == Endpoint::Embeddings;
        let prompt = count(&self.capacity, body, embeds).await;
        if prompt <= short {
            return Ok(raised);
        }
        let effort = if prompt > SHORT_PROMPT { Effort::Load { for_embeddings: embeds } } else { Effort::Ask };
        let Some(lengths) = self.lengths(provider, model, effort).await else { return Ok(raised) };
        let reply = peek.max_completion_tokens.or(peek.max_tokens).or(peek.max_output_tokens).filter(|_| !embeds);
        if let (true, Some(running), Some(most)) = (asks, lengths.limit(), lengths.maximum) {
            let room = reply.unwrap_or(0).clamp(*REPLY.start(), *REPLY.end());
            if prompt > most {
                let message = refusal(model, prompt, None, most, lengths.maximum);
                return Err(GatewayError::new(Fault::ContextLengthExceeded, message).with_param(Some(param)));
            }
            let needed = prompt.saturating_add(room).min(most);
            if needed <= running && raised.is_none() {
                return Ok(None);
            }
            // Few different lengths: each new one makes Ollama reload the model.
            let context = needed.checked_next_power_of_two().unwrap_or(most).min(most);
            return Ok(Some(slot.raise(context.max(running))));
        }
        let needed = prompt.saturating_add(reply.unwrap_or(0));
        match lengths.limit() {
            Some(limit) if needed > limit => {
                let message = refusal(model, prompt, reply, limit, lengths.maximum);
                Err(GatewayError::new(Fault::ContextLengthExceeded, message).with_param(Some(param)))
            }
            _ => Ok(raised),
        }
    }

    /// The lengths, from memory or from Ollama; `None` if Ollama does not answer.
    async fn lengths(&self, provider: &Provider, model: &str, effort: Effort) -> Option<Lengths> {
        let slot = self.slot(provider, model);
        if provider.base.tls {
            slot.warn_once(provider, model, "it is behind TLS, where the gateway does not ask");
            return None;
        }
        let mut answer = slot.answer.lock().await;
        if let Some(known) = answer.as_ref().filter(|known| known.serves(effort)) {
            return known.lengths;
        }
        let asked = api::lengths(provider, model, effort).await;
        if let Err(cause) = &asked {
            slot.warn_once(provider, model, &cause.to_string());
        }
        let lengths = asked.ok();
        *answer = Some(Answer { lengths, at: Instant::now() });
        lengths
    }

    fn slot(&self, provider: &Provider, model: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= REMEMBERED {
            // Slots in use stay, so that no model is asked about twice at a time.
            slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        slots.entry((provider.base.to_string(), model.to_owned())).or_default().clone()
    }
}

impl Slot {
    /// The longer context that is in use, if there is one.
    fn raised(&self) -> Option<u64> {
        let raised = *self.raised.lock();
        raised.filter(|(_, at)| at.elapsed() < RAISED).map(|(length, _)| length)
    }

    /// Records that a context of this length is needed, and returns the one to ask for.
    fn raise(&self, length: u64) -> u64 {
        let mut raised = self.raised.lock();
        match &*raised {
            // A context longer than needed is kept for [`RAISED`] after it was needed.
            Some((longer, at)) if *longer > length && at.elapsed() < RAISED => *longer,
            _ => raised.insert((length, Instant::now())).0,
        }
    }

    fn warn_once(&self, provider: &Provider, model: &str, cause: &str) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                provider = &*provider.name,
                model,
                cause,
                "the context length of an Ollama model is unknown: long prompts are forwarded and may be cut silently"
            );
        }
    }
}

impl Answer {
    fn serves(&self, effort: Effort) -> bool {
        match self.lengths {
            Some(lengths) => self.at.elapsed() < FRESH && (effort == Effort::Ask || lengths.running.is_some()),
            None => self.at.elapsed() < SILENCE,
        }
    }
}

impl Lengths {
    /// The context that a request must fit into. Ollama lowers a context above the model's maximum to that maximum.
    fn limit(self) -> Option<u64> {
        self.running.into_iter().chain(self.maximum).min()
    }
}

async fn count(capacity: &Capacity, body: &Bytes, embeds: bool) -> u64 {
    if body.len() <= READ_INLINE {
        return prompt_tokens(body, embeds);
    }
    let (copy, length) = (body.clone(), body.len());
    let counted = capacity.parsing.run(THREAD_PATIENCE, move || prompt_tokens(&copy, embeds)).await;
    counted.unwrap_or_else(|_| estimate::tokens(length))
}

fn refusal(model: &str, prompt: u64, reply: Option<u64>, limit: u64, maximum: Option<u64>) -> String {
    let wanted = match reply {
        Some(reply) => format!("about {prompt} tokens of prompt and {reply} requested for the reply"),
        None => format!("about {prompt} tokens of prompt"),
    };
    let remedy = match maximum {
        Some(maximum) if maximum > limit => format!(
            "The model itself takes up to {maximum}: set OLLAMA_CONTEXT_LENGTH on the Ollama server or num_ctx in the model's \
             Modelfile, or shorten the prompt."
        ),
        Some(_) => {
            "That is this model's maximum: shorten the prompt or choose a model with a longer context.".to_owned()
        }
        None => {
            "Set OLLAMA_CONTEXT_LENGTH on the Ollama server or num_ctx in the model's Modelfile, or shorten the prompt."
                .to_owned()
        }
    };
    format!(
        "This request needs {wanted}, but Ollama runs '{model}' with a context of {limit} tokens and would cut the prompt \
         silently. {remedy}"
    )
}

#[cfg(test)]
mod tests;
