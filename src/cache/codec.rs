//! The form of an entry on disk: a compact record with its key and a checksum.
//!
//! ```text
//! magic 4 | version 1 | key 32 | form 1 | born, stored, cost 3×8 | usage 9×8
//! | tenant, route, provider, model, dropped: length 2, text | length 4, body | BLAKE3 of all before 32
//! ```
//!
//! Numbers are little endian. A record that was cut, damaged, written by another version or belongs to another key
//! is refused: a miss, never a wrong answer.

use std::{
    io::{Read, Write},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use foyer::{Code, Error, ErrorKind};

use super::{Entry, Form, Key};
use crate::types::{NanoUsd, TenantId, Usage};

const MAGIC: [u8; 4] = *b"canE";
/// Version 3 leaves out the labels of the request that the entry was made for.
const VERSION: u8 = 3;
/// The bytes of a record besides its texts and its body.
const FIXED: usize = 4 + 1 + 32 + 1 + 3 * 8 + 9 * 8 + 5 * 2 + 4 + 32;

/// The value that the disk keeps under a key. It repeats the key, so that a record vouches for it.
#[derive(Debug)]
pub(super) struct Stored {
    key: Key,
    entry: Arc<Entry>,
    /// Set on removal: the record may still wait to be written to the disk, and must not come back from there.
    gone: Arc<AtomicBool>,
}

impl Stored {
    pub(super) fn new(key: Key, entry: Arc<Entry>) -> Self {
        Self { key, entry, gone: Arc::default() }
    }

    /// A handle to mark the record as removed, valid for as long as the record is held anywhere.
    pub(super) fn mark(&self) -> Weak<AtomicBool> {
        Arc::downgrade(&self.gone)
    }

    /// The entry, if it belongs to this key and was not removed.
    pub(super) fn answer_for(&self, key: &Key) -> Option<Arc<Entry>> {
        (self.key == *key && !self.gone.load(Ordering::Relaxed)).then(|| self.entry.clone())
    }
}

impl Code for Stored {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        encode(&self.key, &self.entry, writer)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut record = Vec::new();
        reader.read_to_end(&mut record).map_err(Error::io_error)?;
        // foyer turns this kind of error into a miss, and forgets the record.
        let (key, entry) =
            decode(&record).ok_or_else(|| Error::new(ErrorKind::ChecksumMismatch, "not an entry of this version"))?;
        Ok(Self::new(key, Arc::new(entry)))
    }

    fn estimated_size(&self) -> usize {
        let texts = texts(&self.entry).iter().map(|text| text.len()).sum::<usize>();
        FIXED + texts + self.entry.body.len()
    }
}

impl Code for Key {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        writer.write_all(&self.0).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut bytes = [0; 32];
        reader.read_exact(&mut bytes).map_err(Error::io_error)?;
        Ok(Self(bytes))
    }

    fn estimated_size(&self) -> usize {
        32
    }
}

fn texts(entry: &Entry) -> [&str; 5] {
    [entry.tenant.as_str(), &entry.route, &entry.provider, &entry.model, &entry.dropped]
}

fn encode(key: &Key, entry: &Entry, writer: &mut impl Write) -> foyer::Result<()> {
    let head = head(key, entry).ok_or_else(|| Error::new(ErrorKind::OutOfRange, "a name or a body is too long"))?;
    let checksum = blake3::Hasher::new().update(&head).update(&entry.body).finalize();
    for part in [&head[..], &entry.body, checksum.as_bytes()] {
        writer.write_all(part).map_err(Error::io_error)?;
    }
    Ok(())
}

/// Everything before the body; `None` if a length does not fit its field.
fn head(key: &Key, entry: &Entry) -> Option<Vec<u8>> {
    let mut head = Vec::with_capacity(512);
    head.extend(MAGIC);
    head.push(VERSION);
    head.extend(key.0);
    head.push(match entry.form {
        Form::Json => 0,
        Form::Events => 1,
    });
    for number in [entry.born, entry.stored, entry.cost.0].into_iter().chain(entry.usage.numbers()) {
        head.extend(number.to_le_bytes());
    }
    for text in texts(entry) {
        head.extend(u16::try_from(text.len()).ok()?.to_le_bytes());
        head.extend(text.as_bytes());
    }
    head.extend(u32::try_from(entry.body.len()).ok()?.to_le_bytes());
    Some(head)
}

fn decode(record: &[u8]) -> Option<(Key, Entry)> {
    let (content, checksum) = record.split_last_chunk::<32>()?;
    let mut rest = content;
    if take(&mut rest)? != MAGIC || take(&mut rest)? != [VERSION] {
        return None;
    }
    // Checked before anything else in the record is believed, lengths above all.
    if blake3::hash(content) != *checksum {
        return None;
    }
    let key = Key(take(&mut rest)?);
    let form = match take(&mut rest)? {
        [0] => Form::Json,
        [1] => Form::Events,
        _ => return None,
    };
    let [born, stored, cost] = [number(&mut rest)?, number(&mut rest)?, number(&mut rest)?];
    let mut counts = [0; 9];
    for count in &mut counts {
        *count = number(&mut rest)?;
    }
    let usage = Usage::from_numbers(counts);
    let tenant = TenantId::from(text(&mut rest)?);
    let mut name = || text(&mut rest).map(Arc::<str>::from);
    let (route, provider, model, dropped) = (name()?, name()?, name()?, name()?);
    let length = u32::from_le_bytes(take(&mut rest)?);
    if usize::try_from(length).ok()? != rest.len() {
        return None;
    }
    let body = Bytes::copy_from_slice(rest);
    Some((key, Entry { form, body, born, stored, tenant, route, provider, model, dropped, usage, cost: NanoUsd(cost) }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = usize::from(u16::from_le_bytes(take(rest)?));
    let (text, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn entries()(
            events in any::<bool>(),
            body in prop::collection::vec(any::<u8>(), 0..2_000),
            numbers in any::<[u64; 12]>(),
            names in any::<[String; 5]>(),
        ) -> Entry {
            let [born, stored, cost, n3, n4, n5, n6, n7, n8, n9, n10, n11] = numbers;
            let [tenant, route, provider, model, dropped] = names;
            Entry {
                form: if events { Form::Events } else { Form::Json },
                body: body.into(),
                born,
                stored,
                tenant: tenant.into(),
                route: route.into(),
                provider: provider.into(),
                model: model.into(),
                dropped: dropped.into(),
                usage: Usage {
                    prompt_tokens: n3,
                    completion_tokens: n4,
                    cached_tokens: n5,
                    cache_write_tokens: n6,
                    cache_write_1h_tokens: n7,
                    reasoning_tokens: n8,
                    audio_prompt_tokens: n9,
                    audio_completion_tokens: n10,
                    image_prompt_tokens: n11,
                },
                cost: NanoUsd(cost),
            }
        }
    }

    fn record(key: [u8; 32], entry: &Entry) -> Vec<u8> {
        let stored = Stored::new(Key(key), Arc::new(entry.clone()));
        let mut record = Vec::new();
        stored.encode(&mut record).unwrap();
        assert_eq!(record.len(), stored.estimated_size());
        record
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_is_written_is_read(key in any::<[u8; 32]>(), entry in entries()) {
            let stored = Stored::decode(&mut &record(key, &entry)[..]).unwrap();
            prop_assert_eq!(&*stored.answer_for(&Key(key)).unwrap(), &entry);
            let mut other = key;
            other[7] ^= 1;
            prop_assert!(stored.answer_for(&Key(other)).is_none());
        }

        #[test]
        fn any_changed_byte_is_refused(entry in entries(), flip in 1u8..) {
            let mut record = record([7; 32], &entry);
            for at in 0..record.len() {
                record[at] ^= flip;
                prop_assert!(decode(&record).is_none(), "byte {at}");
                record[at] ^= flip;
            }
        }

        #[test]
        fn any_other_length_is_refused(entry in entries(), more in prop::collection::vec(any::<u8>(), 1..50)) {
            let mut record = record([7; 32], &entry);
            for length in 0..record.len() {
                prop_assert!(decode(&record[..length]).is_none(), "length {length}");
            }
            record.extend(more);
            prop_assert!(decode(&record).is_none());
        }

        #[test]
        fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..1_000)) {
            prop_assert!(decode(&noise).is_none());
            let mut named = [&MAGIC[..], &[VERSION], &noise].concat();
            named.extend(blake3::hash(&named).as_bytes());
            // Even with a correct checksum a damaged record does not cause a panic.
            let _ = decode(&named);
        }
    }

    #[test]
    fn another_version_is_refused() {
        let entry = Entry {
            form: Form::Json,
            body: Bytes::from_static(b"{}"),
            born: 1,
            stored: 2,
            tenant: "team".into(),
            route: "gpt".into(),
            provider: "openai".into(),
            model: "gpt-1".into(),
            dropped: "seed".into(),
            usage: Usage::default(),
            cost: NanoUsd(0),
        };
        let mut record = record([7; 32], &entry);
        record[MAGIC.len()] += 1;
        let end = record.len() - 32;
        let checksum = blake3::hash(&record[..end]);
        record[end..].copy_from_slice(checksum.as_bytes());
        assert!(decode(&record).is_none());
    }

    #[test]
    fn what_does_not_fit_its_field_is_not_written() {
        let entry = Entry {
            form: Form::Json,
            body: Bytes::new(),
            born: 1,
            stored: 2,
            tenant: "team".into(),
            route: "x".repeat(1 << 16).into(),
            provider: "openai".into(),
            model: "gpt-1".into(),
            dropped: "seed".into(),
            usage: Usage::default(),
            cost: NanoUsd(0),
        };
        assert!(encode(&Key([0; 32]), &entry, &mut Vec::new()).is_err());
    }
}
