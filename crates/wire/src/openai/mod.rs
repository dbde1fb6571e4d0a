//! OpenAI's wire format, as far as a gateway must understand it: which endpoint a request is for, the few fields it
//! acts on, editing these in the raw bytes, the usage that a reply reports, the shape of errors, and the relay of a stream. It
//! does the same for Anthropic's Messages, which the same listener serves.
//!
//! Everything here works on bytes; it uses no socket and no Pingora type.

mod anthropic;
mod bound;
mod cacheable;
mod canonical;
mod convert;
mod endpoint;
mod error;
pub mod fold;
mod generated;
mod hosted;
mod labels;
pub(crate) mod lenient;
mod locate;
pub mod members;
mod peek;
mod pieces;
mod prompt;
mod splice;
mod stream;
mod texts;
mod thinking;
mod usage;
mod values;

pub use anthropic::{error_body, error_event, is_anthropic_error};
pub use bound::{Bound, IMAGE_ESTIMATE, IMAGE_TOKENS, TEMPLATE_TOKENS};
pub use cacheable::is_good;
pub use canonical::canonical;
pub use convert::{to_events, to_json};
pub use endpoint::{DEFAULT_MODERATION_MODEL, Endpoint};
pub use error::{ErrorBody, find_error, map_status, normalise, read_error};
pub use generated::{generated_media, generated_text};
pub use hosted::{CallCounter, CallPrices, Hosted, Kind, Limit, Tool};
pub use labels::{Labels, is_label};
pub use peek::{Field, Peek, PeekError};
pub use pieces::{Piece, read_prompt};
pub use prompt::{PromptCount, count_prompt};
pub use splice::{Edit, escape_json_string, include_usage_edit, splice};
pub use stream::{
    ChatUsage, MessageUsage, RelayOptions, StreamEnd, StreamKind, StreamRelay, StreamState, responses_error_event,
};
pub use texts::{DEEPEST, Role, Text, TextKind, Texts, Unreadable};
pub use thinking::{ThinkingSwitches, ThinkingWish};
pub use usage::{find_service_tier, find_usage};
pub use values::count_values;
