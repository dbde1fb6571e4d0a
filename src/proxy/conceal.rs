//! Removes details of the account from a provider's errors: with a key of the gateway's the account is the operator's, and all
//! tenants together use up its limits.

use bytes::Bytes;

/// How ids of an account begin (OpenAI: organisation, project, user).
const PREFIXES: [&[u8]; 4] = [b"org-", b"proj_", b"user-", b"acct_"];

/// The text before the amount used, in the message about a rate limit; other tenants' usage is part of that amount.
const USED: &[u8] = b"Used ";

/// Replaces ids of an account and the amounts that it has used by `***`. All other bytes are kept as they are.
pub fn conceal(body: Bytes) -> Bytes {
    let (mut out, mut kept) = (Vec::new(), 0);
    let mut at = 0;
    while at < body.len() {
        let is_begin = at == 0 || !is_word(body[at - 1]);
        let hidden = if is_begin { hidden(&body[at..]) } else { None };
        let Some((shown, length)) = hidden else {
            at += 1;
            continue;
        };
        out.extend_from_slice(&body[kept..at + shown]);
        out.extend_from_slice(b"***");
        at += length;
        kept = at;
    }
    if kept == 0 {
        return body;
    }
    out.extend_from_slice(&body[kept..]);
    out.into()
}

/// If `rest` begins with text to be hidden: how many of its bytes stay visible, and how many it has in all.
fn hidden(rest: &[u8]) -> Option<(usize, usize)> {
    if let Some(count) = rest.strip_prefix(USED) {
        let digits = count.iter().take_while(|byte| byte.is_ascii_digit()).count();
        return (digits > 0).then_some((USED.len(), USED.len() + digits));
    }
    let prefix = PREFIXES.iter().find(|prefix| rest.starts_with(prefix))?.len();
    let id = &rest[prefix..];
    let length = id.iter().take_while(|byte| is_word(**byte)).count();
    // `user-agent` and `org-wide` are ordinary words.
    let made_up = length >= 16 || id[..length].iter().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    made_up.then_some((prefix, prefix + length))
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        String::from_utf8(conceal(Bytes::copy_from_slice(text.as_bytes())).to_vec()).unwrap()
    }

    #[test]
    fn an_account_is_not_named() {
        for (text, expected) in [
            (
                "Rate limit reached for gpt-4o in organization org-aB3dEf on tokens per min (TPM): Limit 30000, Used 29999, Requested 100. Visit",
                "Rate limit reached for gpt-4o in organization org-*** on tokens per min (TPM): Limit 30000, Used ***, Requested 100. Visit",
            ),
            ("Project `proj_SECRET` does not have access", "Project `proj_***` does not have access"),
            (
                r#"{"error":{"message":"user-x1 of org-abcdefghijklmnopqrst"}}"#,
                r#"{"error":{"message":"user-*** of org-***"}}"#,
            ),
            ("org-A", "org-***"),
            ("\u{e9}org-A1,proj_b2\u{e9}", "\u{e9}org-***,proj_***\u{e9}"),
        ] {
            assert_eq!(of(text), expected);
        }
    }

    #[test]
    fn all_else_stays() {
        for text in [
            "",
            "user-agent",
            "an org-wide rule",
            "reorg-A1",
            "Used by",
            "unUsed 7",
            "my_org-A1",
            "proj_",
            "user-supplied",
        ] {
            assert_eq!(of(text), text);
        }
    }
}
