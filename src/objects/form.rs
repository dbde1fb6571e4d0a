//! The fields of a multipart body (RFC 7578), read strictly: a body that two readers could understand differently is refused.

/// A file of at most this size, in bytes, also counts as a field: some readers make no difference.
const SMALL_FILE: usize = 256;

/// The fields of a multipart body, without its files.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Name and value of each field, in the order of the body.
    pub fields: Vec<(String, String)>,
}

/// The boundary that a content type names; `None` if the content type is not `multipart/form-data`, or is written in a way on
/// which readers disagree.
pub fn boundary(content_type: &str) -> Option<&str> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut boundaries = rest.split(';').filter_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    });
    if !is_legible(rest) {
        return None;
    }
    let value = boundaries.next()?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte);
    let good = (1..=70).contains(&value.len()) && value.bytes().all(plain) && boundaries.next().is_none();
    good.then_some(value)
}

impl Form {
    /// Parses a whole body. `None` if the body deviates from the form that all writers produce.
    pub fn read(body: &[u8], boundary: &str) -> Option<Self> {
        let mut form = Self::default();
        let delimiter = format!("\r\n--{boundary}");
        let mut rest = body.strip_prefix(&delimiter.as_bytes()[2..])?;
        loop {
            match rest {
                [b'-', b'-', end @ ..] if end.iter().all(|byte| b"\r\n".contains(byte)) => return Some(form),
                [b'\r', b'\n', part @ ..] => {
                    // The part's header ends with an empty line; it must not contain the delimiter.
                    let head_end = find(part, b"\r\n\r\n")?;
                    let (head, tail) = (&part[..head_end], &part[head_end + 4..]);
                    if find(head, &delimiter.as_bytes()[2..]).is_some() {
                        return None;
                    }
                    let end = find(tail, delimiter.as_bytes())?;
                    let (name, is_file) = disposition(std::str::from_utf8(head).ok()?)?;
                    // A field of this name sets the character encoding of all other fields.
                    if name.eq_ignore_ascii_case("_charset_") {
                        return None;
                    }
                    if !is_file || end <= SMALL_FILE && std::str::from_utf8(&tail[..end]).is_ok() {
                        form.fields.push((name, String::from_utf8(tail[..end].to_vec()).ok()?));
                    }
                    rest = &tail[end + delimiter.len()..];
                }
                _ => return None,
            }
        }
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(text, wanted)
}

/// The name in a part's header, and whether the part is a file.
fn disposition(head: &str) -> Option<(String, bool)> {
    let mut found = None;
    for line in head.split("\r\n") {
        let (header, value) = line.split_once(':')?;
        if header.eq_ignore_ascii_case("content-disposition") {
            if found.is_some() {
                return None;
            }
            found = Some(parameters(value)?);
        } else {
            if header.eq_ignore_ascii_case("content-type") && !is_legible(value) {
                return None;
            }
            let encoded = header.eq_ignore_ascii_case("content-transfer-encoding") && !is_plain(value);
            if encoded || !header.to_ascii_lowercase().starts_with("content-") {
                return None;
            }
        }
    }
    found
}

/// Whether the encoding that a content type names, if any, is compatible with ASCII: in UTF-7, for example, a text is not what
/// its bytes look like.
fn is_legible(content_type: &str) -> bool {
    let lower = content_type.to_ascii_lowercase();
    lower.match_indices("charset").all(|(at, word)| {
        let rest = lower[at + word.len()..].trim_start();
        let value = rest.strip_prefix('=').unwrap_or_default().trim_start().trim_start_matches('"');
        ["utf-8", "utf8", "us-ascii", "ascii", "iso-8859-", "windows-125"].iter().any(|known| value.starts_with(known))
    })
}

fn is_plain(encoding: &str) -> bool {
    ["binary", "8bit", "7bit"].iter().any(|plain| encoding.trim().eq_ignore_ascii_case(plain))
}

/// Parses `form-data; name="…"; filename="…"`. Quotes and backslashes in a name are refused, and so is `name*`.
fn parameters(value: &str) -> Option<(String, bool)> {
    let mut rest = value.trim().strip_prefix("form-data")?;
    let (mut name, mut file) = (None, false);
    while !rest.trim().is_empty() {
        rest = rest.trim_start().strip_prefix(';')?.trim_start();
        let (key, after) = rest.split_once('=')?;
        let (text, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(';').unwrap_or(after.len())),
        };
        match key {
            "name" if name.is_none() && !text.contains('\\') => name = Some(text.trim().to_owned()),
            "filename" if !text.contains('\\') => file = true,
            "filename*" => file = true,
            _ => return None,
        }
        rest = after;
    }
    Some((name?, file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_and_files_passed_over() {
        let body = b"--xy\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--xy\r\ncontent-disposition: form-data; \
            name=\"file\"; filename=\"a;b.txt\"\r\nContent-Type: text/plain\r\n\r\nname=\"file_id\"\r\n--x%\r\n--xy\r\nContent-Disposition: \
            form-data; name=file_id\r\n\r\nfile-1\r\n--xy--\r\n";
        let body = String::from_utf8_lossy(body).replace('%', &"x".repeat(SMALL_FILE));
        let form = Form::read(body.as_bytes(), "xy").unwrap();
        let fields: Vec<_> = form.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(fields, [("purpose", "batch"), ("file_id", "file-1")]);
        assert_eq!(Form::read(b"--xy--", "xy"), Some(Form::default()));
        let small = b"--xy\r\nContent-Disposition: form-data; name=\"file_id\"; filename=\"a\"\r\n\r\nfile-1\r\n--xy--";
        assert_eq!(Form::read(small, "xy").unwrap().fields, [("file_id".to_owned(), "file-1".to_owned())]);
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for body in [
            "",
            "preamble\r\n--xy\r\n",
            "--xy\nContent-Disposition: form-data; name=\"a\"\n\nb\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"; name=\"file_id\"\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name*=utf-8''file_id\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\\\"\"; x=\"\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Transfer-Encoding: base64\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: attachment; name=\"a\"\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nb\r\n--xyz\r\n",
            "--xy--\r\n--xy\r\nContent-Disposition: form-data; name=\"file_id\"\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; Charset=utf-7\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"a\"\r\nContent-Type: text/plain; charset*=utf-8''x\r\n\r\nb\r\n--xy--",
            "--xy\r\nContent-Disposition: form-data; name=\"_charset_\"\r\n\r\nutf-7\r\n--xy--",
        ] {
            assert_eq!(Form::read(body.as_bytes(), "xy"), None, "{body}");
        }
    }

    #[test]
    fn a_boundary_is_taken_where_it_is_clear() {
        assert_eq!(boundary("multipart/form-data; boundary=xy"), Some("xy"));
        assert_eq!(boundary("Multipart/Form-Data;charset=utf-8; Boundary=\"x y\""), None);
        assert_eq!(boundary("multipart/form-data; boundary=\"x-y\""), Some("x-y"));
        assert_eq!(boundary("multipart/form-data; charset=\"UTF-8\"; boundary=x"), Some("x"));
        for other in [
            "multipart/form-data",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/mixed; boundary=a",
            "text/plain",
            "multipart/form-data; charset=utf-7; boundary=a",
            "multipart/form-data; boundary=a; CHARSET = utf-16",
        ] {
            assert_eq!(boundary(other), None, "{other}");
        }
    }
}
