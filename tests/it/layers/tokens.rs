//! Rust text as names and punctuation, without comments and literals.

/// A name, `::` or one other character; literals and comments are dropped.
#[derive(Debug)]
pub struct Token {
    pub line: usize,
    pub text: String,
}

pub fn tokenize(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let peek = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let (mut i, mut line) = (0, 1);
    while i < chars.len() {
        let start = i;
        let c = chars[i];
        let mut text = String::new();
        if c == '/' && peek(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && peek(i + 1) == '*' {
            i = end_of_block_comment(&chars, i);
        } else if c == '"' {
            i = end_of_string(&chars, i);
        } else if c == '\'' {
            i = end_of_char_or_lifetime(&chars, i);
        } else if c.is_alphanumeric() || c == '_' {
            while peek(i).is_alphanumeric() || peek(i) == '_' {
                i += 1;
            }
            text = chars[start..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            let prefix = matches!(text.as_str(), "r" | "br" | "cr");
            if prefix && peek(i + hashes) == '"' {
                i = end_of_raw_string(&chars, i + hashes + 1, hashes);
                text.clear();
            } else if text == "r" && hashes == 1 {
                // A raw name: `r#type` is read as `type` next, which only a path segment can be.
                i += 1;
                text.clear();
            } else if c.is_numeric() {
                text.clear();
            }
        } else if c == ':' && peek(i + 1) == ':' {
            i += 2;
            text = "::".to_owned();
        } else {
            i += 1;
            if !c.is_whitespace() {
                text = c.to_string();
            }
        }
        if !text.is_empty() {
            tokens.push(Token { line, text });
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let (mut i, mut depth) = (start, 0);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
            }
            _ => i += 1,
        }
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    chars.len().min(i + 1)
}

fn end_of_raw_string(chars: &[char], start: usize, hashes: usize) -> usize {
    let closes =
        |i: &usize| chars[*i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
    (start..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

fn end_of_char_or_lifetime(chars: &[char], start: usize) -> usize {
    match (chars.get(start + 1), chars.get(start + 2)) {
        (Some('\\'), _) => {
            let close = (start + 3..chars.len()).find(|i| chars[*i] == '\'');
            close.map_or(chars.len(), |i| i + 1)
        }
        (Some(_), Some('\'')) => start + 3,
        // A lifetime or label; its name is read as a name, which does no harm.
        _ => start + 1,
    }
}
