//! A value in a request with its path, and the checks of single values.

use std::fmt;

use serde_json::Value;

use super::super::errors::ApiError;

/// The outcome of a check.
pub(super) type Checked<T = ()> = Result<T, ApiError>;

/// A value with its path. The path is only written out when something is wrong.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    up: Option<&'a Node<'a>>,
    step: PathStep<'a>,
    pub(super) value: &'a Value,
}

#[derive(Clone, Copy)]
enum PathStep<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> Node<'a> {
    /// A field of the request itself.
    pub(super) fn top(name: &'a str, value: &'a Value) -> Self {
        Self { up: None, step: PathStep::Key(name), value }
    }

    /// A field that is there, even if it is `null`.
    pub(super) fn key(&'a self, name: &'a str) -> Option<Self> {
        self.value.get(name).map(|value| Self { up: Some(self), step: PathStep::Key(name), value })
    }

    /// A field that is there and not `null`.
    pub(super) fn given(&'a self, name: &'a str) -> Option<Self> {
        self.key(name).filter(|node| !node.value.is_null())
    }

    /// A field that must be there.
    pub(super) fn need(&'a self, name: &'a str) -> Checked<Self> {
        self.key(name).ok_or_else(|| ApiError::worded(400, &format!("{self}.{name}: Field required")))
    }

    /// This value, with the name of its variant as one more step of the path, because the real API names the variant of a union.
    pub(super) fn tagged(&'a self, tag: &'a str) -> Self {
        Self { up: Some(self), step: PathStep::Key(tag), value: self.value }
    }

    /// The items of a list.
    pub(super) fn items(&'a self) -> Checked<impl Iterator<Item = Self>> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("Input should be a valid list"))?;
        let item = move |(i, value)| Self { up: Some(self), step: PathStep::Index(i), value };
        Ok(list.iter().enumerate().map(item))
    }

    /// 400 with the path and this message.
    pub(super) fn wrong(&self, message: &str) -> ApiError {
        ApiError::worded(400, &format!("{self}: {message}"))
    }

    /// Checks that the value is an object with only these fields.
    pub(super) fn closed(&self, fields: &[&str]) -> Checked {
        let object = self.value.as_object().ok_or_else(|| self.wrong("Input should be a valid dictionary"))?;
        match object.keys().find(|key| !fields.contains(&key.as_str())) {
            Some(extra) => Err(ApiError::worded(400, &format!("{self}.{extra}: Extra inputs are not permitted"))),
            None => Ok(()),
        }
    }

    /// Checks that the value is an object.
    pub(super) fn object(&self) -> Checked {
        if self.value.is_object() { Ok(()) } else { Err(self.wrong("Input should be a valid dictionary")) }
    }

    /// The value, which must be a string.
    pub(super) fn text(&self) -> Checked<&'a str> {
        self.value.as_str().ok_or_else(|| self.wrong("Input should be a valid string"))
    }

    /// The value, which must be a string that is not empty.
    pub(super) fn filled(&self) -> Checked<&'a str> {
        match self.text()? {
            "" => Err(self.wrong("String should have at least 1 character")),
            text => Ok(text),
        }
    }

    /// The value, which must be a boolean.
    pub(super) fn boolean(&self) -> Checked<bool> {
        self.value.as_bool().ok_or_else(|| self.wrong("Input should be a valid boolean"))
    }

    /// The value, which must be an integer of at least `least`.
    pub(super) fn integer(&self, least: i64) -> Checked<u64> {
        let n = self.value.as_i64().ok_or_else(|| self.wrong("Input should be a valid integer"))?;
        match u64::try_from(n).ok().filter(|_| n >= least) {
            Some(n) => Ok(n),
            None => Err(self.wrong(&format!("Input should be greater than or equal to {least}"))),
        }
    }

    /// The value, which must be a number from 0 to 1.
    pub(super) fn share(&self) -> Checked<f64> {
        match self.value.as_f64() {
            None => Err(self.wrong("Input should be a valid number")),
            Some(n) if n < 0.0 => Err(self.wrong("Input should be greater than or equal to 0")),
            Some(n) if n > 1.0 => Err(self.wrong("Input should be less than or equal to 1")),
            Some(n) => Ok(n),
        }
    }

    /// The value, which must be one of these strings.
    pub(super) fn one_of(&self, words: &[&str]) -> Checked<&'a str> {
        let found = self.value.as_str().filter(|word| words.contains(word));
        found.ok_or_else(|| {
            let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            let listed = match quoted.split_last() {
                Some((last, [])) => last.clone(),
                Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
                None => String::new(),
            };
            self.wrong(&format!("Input should be {listed}"))
        })
    }

    /// The value's `type`, which must be one of `tags`.
    pub(super) fn variant(&self, tags: &[&'static str]) -> Checked<&'static str> {
        self.object()?;
        let Some(tag) = self.value.get("type") else {
            return Err(self.wrong("Unable to extract tag using discriminator 'type'"));
        };
        let tag = tag.as_str().map_or_else(|| tag.to_string(), str::to_owned);
        tags.iter().find(|known| **known == tag).copied().ok_or_else(|| {
            let known: Vec<String> = tags.iter().map(|known| format!("'{known}'")).collect();
            let known = known.join(", ");
            self.wrong(&format!(
                "Input tag '{tag}' found using 'type' does not match any of the expected tags: {known}"
            ))
        })
    }

    /// The value, which must be a string of 1 to `longest` letters, digits, `_` and `-`.
    pub(super) fn name(&self, longest: usize) -> Checked<&'a str> {
        let text = self.text()?;
        let good = |c: u8| c.is_ascii_alphanumeric() || c == b'_' || c == b'-';
        if !text.is_empty() && text.len() <= longest && text.bytes().all(good) {
            return Ok(text);
        }
        let count = if longest == usize::MAX { "+".to_owned() } else { format!("{{1,{longest}}}") };
        Err(self.wrong(&format!("String should match pattern '^[a-zA-Z0-9_-]{count}$'")))
    }
}

impl fmt::Display for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up {
            write!(f, "{up}.")?;
        }
        match self.step {
            PathStep::Key(key) => f.write_str(key),
            PathStep::Index(index) => write!(f, "{index}"),
        }
    }
}
