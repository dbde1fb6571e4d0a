//! Tools that the provider runs itself (web search, file search, code interpreter, MCP, …): what a request lets it call, how
//! often at most, and how many calls a reply reports. Providers charge for these calls besides the tokens, and every call
//! sends the prompt to the model once more.
//!
//! | API | limit of the calls | what a reply counts |
//! |---|---|---|
//! | OpenAI Responses | `max_tool_calls`, for all tools together | items of `output`; containers by their ids |
//! | Anthropic Messages | `max_uses` of each tool; ten turns in a request | `usage.server_tool_use`; `container` |
//! | OpenAI Chat | one search in a request | nothing: there was one |
//! | others | none that is documented | nothing |

mod count;
mod read;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::sync::Arc;

pub use self::count::CallCounter;
use super::endpoint::Endpoint;
use super::peek::{Field, Peek, PeekError};
use super::splice::Edit;
use crate::types::NanoUsd;

/// Turns that Anthropic's servers take in one request before they stop with `pause_turn` ("a default limit of 10
/// iterations", Anthropic's guide to stop reasons).
const ANTHROPIC_TURNS: u64 = 10;

/// Bound of [`Hosted::hidden`] for each tool, in tokens.
const HIDDEN: u64 = 16_384;

/// Most tokens in the results of one call: of OpenAI's web search ("limited to a context window size of 128000", OpenAI's
/// guide to web search), and of a file search, 50 chunks of 4,096 tokens ("`max_num_results` … between 1 and 50",
/// "`max_chunk_size_tokens` … maximum value is 4096", OpenAI's reference).
const SEARCH_RESULTS: u64 = 128_000;
const FILE_SEARCH_RESULTS: u64 = 50 * 4_096;

/// The tools of one request that the provider runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosted {
    /// The tools that the provider may run; each kind once.
    pub tools: Vec<Tool>,
    /// What bounds the calls.
    pub limit: Limit,
}

/// One kind of tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// How its calls are counted.
    pub kind: Kind,
    /// The names that the tool's calls may have in the price list; the most expensive of them counts.
    pub prices: Vec<Box<str>>,
    /// The most calls, as the request says (Anthropic's `max_uses`).
    max_uses: Option<u64>,
}

/// How the calls of a tool are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Searches: pages that are opened are not charged (OpenAI's guide to web search, "output and citations").
    Search,
    /// Containers, however many calls run in one.
    Container,
    /// Requests that run code, however often.
    CodeExecution,
    /// Pages that are fetched (Anthropic).
    Fetch,
    /// Items of this type in the output.
    Item(Box<str>),
}

/// What bounds the calls of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `max_tool_calls` of a Responses request, for all tools together; `None` where the request does not say.
    Total(Option<u64>),
    /// `max_uses` of each tool (Anthropic).
    PerTool,
    /// There is one call in a request.
    Once,
    /// No documented limit.
    Nothing,
}

/// The price of a call of each of [`Hosted::tools`], where it is known.
#[derive(Clone, Debug)]
pub struct CallPrices {
    hosted: Arc<Hosted>,
    prices: Vec<Option<NanoUsd>>,
    /// Most calls of a request that does not limit them.
    unstated: u64,
}

impl Hosted {
    /// The tools that a request lets the provider run; `None` where there are none. Called for requests with
    /// [`super::Bound::hosted`].
    ///
    /// # Errors
    /// A limit of the calls that another reader may understand differently.
    pub fn read(endpoint: &Endpoint, body: &[u8]) -> Result<Option<Self>, PeekError> {
        read::hosted(endpoint, body)
    }

    /// The tool of a model that searches for every answer (OpenAI's `gpt-4o-search-preview`).
    pub fn search_model() -> Self {
        Self { tools: vec![Tool::search(None)], limit: Limit::Once }
    }

    /// The tool that replaces `web_search_options` where Chat is translated into Anthropic's Messages: a search tool with this
    /// limit.
    pub fn translated_search(max_uses: u64) -> Self {
        Self { tools: vec![Tool { max_uses: Some(max_uses), ..Tool::search(None) }], limit: Limit::PerTool }
    }

    /// The most calls of all tools together; `most` where the request sets no limit.
    fn calls(&self, most: u64) -> u64 {
        match self.limit {
            Limit::Total(stated) => stated.unwrap_or(most).max(1),
            Limit::PerTool => self.tools.iter().map(|tool| tool.uses(most)).fold(0, u64::saturating_add),
            Limit::Once => 1,
            Limit::Nothing => most,
        }
    }

    /// How often the model reads the prompt at most: once, and once more after each call.
    fn turns(&self, most: u64) -> u64 {
        let turns = self.calls(most).saturating_add(1);
        match self.limit {
            // A tool whose calls have no limit of their own is bounded by the turns alone.
            Limit::PerTool if self.tools.iter().any(|tool| !tool.has_uses()) => ANTHROPIC_TURNS + 1,
            Limit::PerTool => turns.min(ANTHROPIC_TURNS + 1),
            _ => turns,
        }
    }

    /// Whether the request's own limit of generated tokens holds for all turns together (OpenAI: "an upper bound for the
    /// number of tokens that can be generated for a response").
    pub fn answer_is_one(&self) -> bool {
        !matches!(self.limit, Limit::PerTool | Limit::Nothing)
    }

    /// Whether something documented bounds the calls.
    pub fn is_bounded(&self) -> bool {
        self.limit != Limit::Nothing
    }

    /// The most tokens that a provider adds to a prompt to describe its tools; `None` where somebody else writes the description,
    /// such as an MCP server. OpenAI's own descriptions have some hundreds to thousands; the bound is far above.
    fn hidden(&self) -> Option<u64> {
        let each = |tool: &Tool| match (&self.limit, &tool.kind) {
            (Limit::Total(_), Kind::Search | Kind::Container) => Some(HIDDEN),
            (Limit::Total(_), Kind::Item(name)) if matches!(&**name, "file_search_call" | "image_generation_call") => {
                Some(HIDDEN)
            }
            _ => None,
        };
        self.tools.iter().map(each).sum()
    }

    /// The most tokens that the results of a call add to the next prompt; `None` where no bound is documented.
    fn results(&self) -> Option<u64> {
        let each = |tool: &Tool| match (&self.limit, &tool.kind) {
            (Limit::Total(_), Kind::Search) => Some(SEARCH_RESULTS),
            (Limit::Total(_), Kind::Item(name)) if &**name == "file_search_call" => Some(FILE_SEARCH_RESULTS),
            _ => None,
        };
        self.tools.iter().map(each).try_fold(0, |most, results| Some(results?.max(most)))
    }

    /// The name of the first tool, or of the field that brings it along.
    pub fn name(&self) -> &str {
        self.tools.first().and_then(|tool| tool.prices.first()).map_or("tools", |name| name)
    }

    /// The changes of the body that limit the calls to `most` where the request does not limit them.
    pub fn limiting_edits(&self, body: &[u8], peek: &Peek, most: u64) -> Vec<Edit> {
        match self.limit {
            Limit::Total(None) => vec![Edit::Insert("max_tool_calls", most.to_string())],
            Limit::PerTool => {
                read::limited_tools(body, peek, most).map(|tools| Edit::Set(Field::Tools, tools)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Tool {
    fn search(size: Option<&str>) -> Self {
        let name = match size {
            Some(size @ ("low" | "medium" | "high")) => format!("web_search_{size}").into(),
            _ => "web_search".into(),
        };
        Self::of(Kind::Search, name)
    }

    fn of(kind: Kind, price: Box<str>) -> Self {
        Self { kind, prices: vec![price], max_uses: None }
    }

    fn item(name: &str) -> Self {
        Self::of(Kind::Item(format!("{name}_call").into()), name.into())
    }

    /// Whether the tool takes Anthropic's `max_uses`.
    fn has_uses(&self) -> bool {
        matches!(self.kind, Kind::Search | Kind::Fetch)
    }

    fn uses(&self, most: u64) -> u64 {
        match self.kind {
            Kind::Search | Kind::Fetch => self.max_uses.unwrap_or(most).max(1),
            Kind::CodeExecution => 1,
            _ => ANTHROPIC_TURNS,
        }
    }
}

impl CallPrices {
    /// The prices of a request's tools at one provider. A request that does not limit the calls makes at most `unstated`.
    pub fn new(hosted: Arc<Hosted>, unstated: u64, price: impl Fn(&str) -> Option<NanoUsd>) -> Self {
        let of_name = |name: &str| {
            let any_size = || name.starts_with("web_search_").then(|| price("web_search")).flatten();
            price(name).or_else(any_size)
        };
        let dearest = |tool: &Tool| -> Option<NanoUsd> {
            let all: Option<Vec<NanoUsd>> = tool.prices.iter().map(|name| of_name(name)).collect();
            all?.into_iter().max()
        };
        let prices = hosted.tools.iter().map(dearest).collect();
        Self { hosted, prices, unstated }
    }

    /// The tools that these are the prices of.
    pub fn hosted(&self) -> &Arc<Hosted> {
        &self.hosted
    }

    /// How often the model reads the prompt at most.
    pub fn turns(&self) -> u64 {
        self.hosted.turns(self.unstated)
    }

    /// The name of a tool whose calls have no price.
    pub fn missing(&self) -> Option<&str> {
        let unpriced = self.prices.iter().position(Option::is_none)?;
        self.hosted.tools[unpriced].prices.first().map(|name| &**name)
    }

    /// The most that all calls together can cost. `None` where a tool has no price.
    pub fn most(&self) -> Option<NanoUsd> {
        let (hosted, unstated) = (&self.hosted, self.unstated);
        if hosted.limit == Limit::PerTool {
            let priced = hosted.tools.iter().zip(&self.prices);
            return priced.map(|(tool, price)| price.map(|price| times(price, tool.uses(unstated)))).sum();
        }
        let dearest = self.prices.iter().copied().collect::<Option<Vec<_>>>()?.into_iter().max()?;
        Some(times(dearest, hosted.calls(unstated)))
    }

    /// The most prompt tokens of a reply that was cut off after `begun` calls had begun: the sum over its first turn and one
    /// further turn per call, whose prompt contains the results. All numbers but `begun` are tokens: `first` is the provider's
    /// own count of the first turn, `shown` a bound of the body's tokens, `generated` the most that the model has generated, and
    /// `longest` the longest prompt that the model takes.
    pub fn prompt_after(
        &self,
        begun: u64,
        (first, shown): (Option<u64>, Option<u64>),
        generated: u64,
        longest: u64,
    ) -> u64 {
        let hidden = || self.hosted.hidden().zip(shown).map(|(hidden, shown)| hidden.saturating_add(shown));
        let mut turn = first.or_else(hidden).unwrap_or(longest).min(longest);
        let mut all = turn;
        for _ in 0..begun.min(self.turns().saturating_sub(1)) {
            let grown = |results: u64| turn.saturating_add(results).saturating_add(generated).min(longest);
            turn = self.hosted.results().map_or(longest, grown);
            all = all.saturating_add(turn);
        }
        all
    }

    /// What the counted calls cost; where the count is incomplete, the most that the calls can cost. `None` where a call has no
    /// price, or where the API does not report calls.
    pub fn cost(&self, counter: &CallCounter) -> Option<NanoUsd> {
        if self.hosted.limit == Limit::Nothing {
            return None;
        }
        let each = counter.counts.iter().zip(&self.prices).map(|(count, price)| match count {
            0 => Some(NanoUsd::ZERO),
            count => price.map(|price| times(price, *count)),
        });
        let counted = each.sum::<Option<NanoUsd>>()?;
        if counter.lost { Some(self.most()?.max(counted)) } else { Some(counted) }
    }

    /// Like [`Self::cost`], for the calls that a complete JSON reply reports.
    pub fn cost_of(&self, reply: &[u8]) -> Option<NanoUsd> {
        let mut counter = CallCounter::new(self.hosted.clone());
        counter.reply(reply);
        self.cost(&counter)
    }
}

fn times(price: NanoUsd, count: u64) -> NanoUsd {
    NanoUsd(price.0.saturating_mul(count))
}
