//! The owners of the objects that providers keep: files, batches, stored completions, responses, conversations, vector stores,
//! fine-tunes and the like.
//!
//! A provider knows only the account of the gateway's key; the gateway knows which tenant's request created an object. It keeps
//! the id of every object whose creation it sees, with the tenant; any other id belongs to nobody. The files of this module are
//! plain Rust:
//!
//! | file | contents |
//! |---|---|
//! | `index` | the owners of ids in memory, bounded, the oldest removed first |
//! | `table` | the owners in the store: one thread writes, and reads what another process wrote |
//! | `rules` | a table of all paths: which segments are ids, which ids the reply creates, what is refused |
//! | `refs` | what a request's body and query refer to: a table of names, and how they are read |
//! | `form` | the fields of a multipart body |
//! | `made` | the ids in a reply |
//! | `batch` | the request that creates a batch, and what its lines may ask |
//! | `page` | a list without the objects of others |

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
