//! The canonical form of a JSON object: bodies with the same values, in whatever spelling, become the same bytes.
//!
//! Two passes, neither recursive, because a body may nest thousands deep. The first writes every value in its
//! canonical spelling but in the order of the body, and notes the members of each object that is out of order. The
//! second copies that text and takes the noted members in order. So a byte is copied twice, however deep it lies;
//! sorting each object where it ends would copy every byte once per level.

mod scalar;

use scalar::{number, string};

use super::locate::skip_space;

/// Each level takes a few bytes of memory, more than its bracket takes in the body.
const MAX_DEPTH: usize = 1 << 16;

/// Appends the canonical form of `body` to `out`, without the top-level members whose key `skip` names. Returns `false`,
/// with `out` unchanged, for a body that is not one JSON object, is larger than 2 GiB, or is nested deeper than 65 536 levels.
///
/// Two bodies have the same form if and only if they hold the same values:
///
/// - Members are sorted by the bytes of their key's canonical text. Repeated keys keep their order, because it depends
///   on the reader which of them counts.
/// - White space between tokens is left out.
/// - A string is compared by what it decodes to. Only `"`, `\` and control characters are escaped, and lone
///   surrogates, which have no other spelling.
/// - A number is compared by its exact decimal value, whatever its size: its digits without zeros at either end, and a
///   power of ten unless that is 0 (`1.50` is `15e-1`). Zero has no sign.
pub fn canonical(body: &[u8], skip: impl Fn(&str) -> bool, out: &mut Vec<u8>) -> bool {
    // Offsets take 32 bits, and a number may grow by half: `10` becomes `1e1`.
    if body.len() > i32::MAX as usize || std::str::from_utf8(body).is_err() {
        return false;
    }
    // Capacity for most bodies, so that the buffers do not grow step by step.
    let mut flat = Flat {
        json: body,
        text: Vec::with_capacity(body.len() + 16),
        open: Vec::with_capacity(16),
        pending: Vec::with_capacity(32),
        objects: Vec::with_capacity(32),
        members: Vec::with_capacity(64),
        ..Flat::default()
    };
    let read = flat.read(&skip).is_some();
    if read {
        flat.arrange(out);
    }
    read
}

/// The first pass: canonical text in the order of the body.
#[derive(Default)]
struct Flat<'a> {
    json: &'a [u8],
    at: usize,
    text: Vec<u8>,
    /// The arrays and objects around `at`.
    open: Vec<Open>,
    /// Members of the open objects.
    pending: Vec<Member>,
    /// The current top-level member is to be left out.
    skipping: bool,
    /// Objects by their start. For objects whose members are in order already, no members are noted.
    objects: Vec<Object>,
    /// The sorted members of the objects that are out of order.
    members: Vec<Member>,
}

#[derive(Clone, Copy)]
enum Open {
    Array,
    /// The object's index into `objects`, and its first member's index into `pending`.
    Object(u32, u32),
}

/// Offsets in the text, and the first object that starts behind `start`.
#[derive(Clone, Copy)]
struct Member {
    start: u32,
    key_end: u32,
    end: u32,
    object: u32,
}

impl Member {
    fn key(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize + 1..self.key_end as usize - 1]
    }
}

/// Offsets in the text, the first object that starts behind `end`, and a range of `members`.
#[derive(Clone, Copy, Default)]
struct Object {
    start: u32,
    end: u32,
    next: u32,
    first: u32,
    last: u32,
}

impl Flat<'_> {
    fn read(&mut self, skip: &impl Fn(&str) -> bool) -> Option<()> {
        self.space();
        if self.byte()? != b'{' {
            return None;
        }
        loop {
            self.space();
            match self.byte()? {
                bracket @ (b'{' | b'[') => {
                    self.open(bracket)?;
                    self.space();
                    match (bracket, self.byte()?) {
                        (b'{', b'}') | (b'[', b']') => self.close()?,
                        (b'{', _) => {
                            self.key(skip)?;
                            continue;
                        }
                        _ => continue,
                    }
                }
                _ => self.scalar()?,
            }
            // A value is complete, and with it perhaps what encloses it.
            loop {
                self.space();
                let Some(open) = self.open.last().copied() else {
                    return (self.at == self.json.len()).then_some(());
                };
                match (open, self.byte()?) {
                    (Open::Array, b',') => {
                        self.at += 1;
                        self.text.push(b',');
                        break;
                    }
                    (Open::Object(..), b',') => {
                        self.end_member();
                        self.at += 1;
                        self.space();
                        self.key(skip)?;
                        break;
                    }
                    (Open::Array, b']') => self.close()?,
                    (Open::Object(..), b'}') => {
                        self.end_member();
                        self.close()?;
                    }
                    _ => return None,
                }
            }
        }
    }

    fn byte(&self) -> Option<u8> {
        self.json.get(self.at).copied()
    }

    fn space(&mut self) {
        self.at = skip_space(self.json, self.at);
    }

    fn scalar(&mut self) -> Option<()> {
        self.at = match self.byte()? {
            b'"' => string(self.json, self.at, &mut self.text)?,
            b'-' | b'0'..=b'9' => number(self.json, self.at, &mut self.text)?,
            _ => {
                let rest = &self.json[self.at..];
                let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word.as_bytes()))?;
                self.text.extend_from_slice(word.as_bytes());
                self.at + word.len()
            }
        };
        Some(())
    }

    fn open(&mut self, bracket: u8) -> Option<()> {
        if self.open.len() == MAX_DEPTH {
            return None;
        }
        self.open.push(if bracket == b'{' {
            self.objects.push(Object { start: self.text.len() as u32, ..Object::default() });
            Open::Object(self.objects.len() as u32 - 1, self.pending.len() as u32)
        } else {
            Open::Array
        });
        self.text.push(bracket);
        self.at += 1;
        Some(())
    }

    /// Writes a key and its colon.
    fn key(&mut self, skip: &impl Fn(&str) -> bool) -> Option<()> {
        if self.byte()? != b'"' {
            return None;
        }
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        let start = self.text.len();
        self.at = string(self.json, self.at, &mut self.text)?;
        if self.open.len() == 1 {
            self.skipping = names(&self.text[start..], skip);
        }
        self.pending.push(Member {
            start: start as u32,
            key_end: self.text.len() as u32,
            end: 0,
            object: self.objects.len() as u32,
        });
        self.space();
        if self.byte()? != b':' {
            return None;
        }
        self.text.push(b':');
        self.at += 1;
        Some(())
    }

    /// Called when the value of the innermost object's last member is complete.
    fn end_member(&mut self) {
        let Some(member) = self.pending.last_mut() else { return };
        member.end = self.text.len() as u32;
        if self.skipping && self.open.len() == 1 {
            let start = member.start as usize;
            self.text.truncate(if self.text[start - 1] == b',' { start - 1 } else { start });
            self.objects.truncate(member.object as usize);
            self.pending.pop();
            self.skipping = false;
        }
    }

    /// Ends the innermost array or object.
    fn close(&mut self) -> Option<()> {
        self.at += 1;
        let Open::Object(object, first) = self.open.pop()? else {
            self.text.push(b']');
            return Some(());
        };
        self.text.push(b'}');
        let (text, own) = (&self.text, &mut self.pending[first as usize..]);
        if !own.is_sorted_by(|a, b| a.key(text) <= b.key(text)) {
            own.sort_by(|a, b| a.key(text).cmp(b.key(text)));
            let before = self.members.len() as u32;
            self.members.extend_from_slice(own);
            let (end, next) = (text.len() as u32, self.objects.len() as u32);
            let noted =
                Object { end, next, first: before, last: self.members.len() as u32, ..self.objects[object as usize] };
            self.objects[object as usize] = noted;
        } else if object as usize + 1 == self.objects.len() {
            self.objects.pop();
        }
        self.pending.truncate(first as usize);
        Some(())
    }

    /// The second pass: copies the text to `out` and puts the noted members in order.
    fn arrange(&self, out: &mut Vec<u8>) {
        enum Job {
            /// Two offsets in the text, and the first object that starts behind the first of them.
            Copy(usize, usize, usize),
            /// A range of `members`.
            Members(usize, usize),
        }

        out.reserve(self.text.len());
        let mut jobs = vec![Job::Copy(0, self.text.len(), 0)];
        while let Some(job) = jobs.pop() {
            match job {
                Job::Copy(from, to, object) => {
                    let mut inside = self.objects[object..].iter().take_while(|object| (object.start as usize) < to);
                    if let Some(object) = inside.find(|object| object.first < object.last) {
                        out.extend_from_slice(&self.text[from..=object.start as usize]);
                        jobs.push(Job::Copy(object.end as usize - 1, to, object.next as usize));
                        jobs.push(Job::Members(object.first as usize, object.last as usize));
                    } else {
                        out.extend_from_slice(&self.text[from..to]);
                    }
                }
                Job::Members(first, last) => {
                    let member = self.members[first];
                    if out.last() != Some(&b'{') {
                        out.push(b',');
                    }
                    if first + 1 < last {
                        jobs.push(Job::Members(first + 1, last));
                    }
                    jobs.push(Job::Copy(member.start as usize, member.end as usize, member.object as usize));
                }
            }
        }
    }
}

/// Whether `skip` names a key, given as canonical text. A key with a lone surrogate has no name.
fn names(key: &[u8], skip: &impl Fn(&str) -> bool) -> bool {
    let inner = &key[1..key.len() - 1];
    if memchr::memchr(b'\\', inner).is_none() {
        return std::str::from_utf8(inner).is_ok_and(skip);
    }
    serde_json::from_slice::<String>(key).is_ok_and(|key| skip(&key))
}

#[cfg(test)]
mod tests;
