//! Whose the objects are that providers keep: files, batches, stored completions, responses, conversations, vector stores,
//! fine-tunes and the like.
//!
//! A provider knows one account, that of the gateway's key; the gateway knows whose request made what. It keeps the id of every
//! object that it sees made, with the tenant that made it, and an id that it has not seen belongs to nobody. What is in here is
//! plain Rust:
//!
//! | file | knows |
//! |---|---|
//! | `index` | who owns an id: in memory, bounded, the oldest go first |
//! | `table` | the same in the store: one thread writes, and reads what another process wrote |
//! | `rules` | every path: what of it is an id, what its reply makes, what is refused (a table) |
//! | `refs` | what a request's body and query refer to (a table of names, and how they are read) |
//! | `form` | the fields of a multipart body |
//! | `made` | the ids in a reply |
//! | `batch` | the request for a batch, and what its lines may ask for |
//! | `page` | a list without what belongs to others |

mod batch;
mod form;
mod index;
mod made;
mod page;
mod refs;
mod rules;
mod table;

pub use batch::Batch;
pub use form::{Form, boundary};
pub use index::{Class, Owner};
pub use made::{Written, find, find_audio};
pub use page::{Collected, Cursor, Page, PageStep};
pub use refs::{Reference, Refused, decode, is_cursor, is_fine_tune, may_refer, query, scan, scan_field};
pub use rules::{Action, Answer, RESPONSE, Rule, SIDE_EFFECTS, find_rule};
pub use table::{Counts, Objects};
