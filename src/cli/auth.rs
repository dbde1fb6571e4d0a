//! `can auth token …`: creates, lists and ends the tokens by which clients are recognised.
//!
//! The commands work on the database file; a running gateway accepts a new token at once, and follows other changes within a
//! second. A new secret goes to standard output alone, and everything else about the token to standard error, for commands
//! such as `export OPENAI_API_KEY=$(can auth token create)`.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand, value_parser};
use serde::Serialize;

use super::{
    input::{Settings, When, millis, span, tenant},
    output::{self, Align, complain, moment, note, rfc3339, say},
};
use crate::{
    config::{HumanUsd, Limits, check_pattern, did_you_mean},
    identity::{NewToken, Scope, Scopes, Token, TokenError, TokenSecret, Tokens},
    types::{TenantId, TokenId, unix_now},
};

/// Arguments of `can auth`.
#[derive(Args, Debug)]
pub struct AuthArgs {
    /// The configuration file, for the database and the tenants. Without it: the file of CAN_CONFIG, or else the defaults.
    #[arg(long, short, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: AuthCommand,
}

#[derive(Debug, Subcommand)]
enum AuthCommand {
    /// The `chitty_…` tokens of clients.
    Token {
        #[command(subcommand)]
        command: TokenCommand,
    },
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Create a token. Its secret is shown only now, alone on standard output.
    Create(CreateArgs),
    /// List tokens, the oldest first.
    List(ListArgs),
    /// Show one token.
    Show(ShowArgs),
    /// End a token at once, for good.
    Revoke {
        /// The id of the token, `tok_…`.
        id: String,
    },
    /// Create a token with the same properties, and end the old one after a while.
    Rotate(RotateArgs),
}

#[derive(Args, Debug)]
struct CreateArgs {
    /// The tenant that pays. Without it: `auth.default_tenant` of the configuration.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// The scopes of the token: `ai:read` (list models), `ai:write` (ask models), `admin` (the admin API).
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', default_value = "ai:read,ai:write")]
    scopes: Vec<Scope>,
    /// The models that the token may ask for: names, or patterns with a `*` at their end. Without it: all models of its tenant.
    #[arg(long, value_name = "MODELS", value_delimiter = ',', value_parser = model)]
    models: Vec<String>,
    /// When the token ends: a span (`30d`), a date (its beginning, UTC) or `2026-12-31T18:00:00Z`. Without it: never.
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    expires: Option<When>,
    /// A name for people.
    #[arg(long, short, value_name = "TEXT")]
    name: Option<String>,
    /// The most requests per second.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    rps: Option<u64>,
    /// The most requests per minute.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    rpm: Option<u64>,
    /// The most LLM tokens per minute.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    tpm: Option<u64>,
    /// The most requests that are open at the same time.
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    concurrency: Option<u64>,
    /// The most US dollars per minute.
    #[arg(long, value_name = "USD", value_parser = usd)]
    usd_per_minute: Option<HumanUsd>,
    /// Print one JSON object, which contains the secret.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ListArgs {
    /// List only the tokens of this tenant.
    #[arg(long, short, value_name = "NAME", value_parser = tenant)]
    tenant: Option<TenantId>,
    /// Print a JSON list.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ShowArgs {
    /// The id of the token, `tok_…`.
    id: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct RotateArgs {
    /// The id of the token, `tok_…`.
    id: String,
    /// How long the old token stays valid.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "24h")]
    overlap: Duration,
    /// Print one JSON object, which contains the new secret.
    #[arg(long)]
    json: bool,
}

/// Runs `can auth`.
pub fn run(args: AuthArgs) -> ExitCode {
    let AuthCommand::Token { command } = args.command;
    let outcome = Settings::load(args.config).and_then(|settings| match command {
        TokenCommand::Create(args) => create(&settings, args),
        TokenCommand::List(args) => list(&settings, &args),
        TokenCommand::Show(args) => show(&settings, &args),
        TokenCommand::Revoke { id } => revoke(&settings, &id),
        TokenCommand::Rotate(args) => rotate(&settings, &args),
    });
    outcome.unwrap_or_else(|message| complain(&message))
}

/// The part of the message that says what the first token changes.
const CLOSES: &str = " This is the first token: from now on callers without a token are not served on the gateway's own keys \
                      (auth.anonymous names a tenant for them).";

fn create(settings: &Settings, args: CreateArgs) -> Result<ExitCode, String> {
    let tenant = args.tenant.unwrap_or_else(|| settings.config.auth.default_tenant.clone());
    if settings.config.tenant(&tenant).is_none() {
        return Err(no_tenant(settings, &tenant));
    }
    let limits = Limits {
        requests_per_second: args.rps,
        requests_per_minute: args.rpm,
        tokens_per_minute: args.tpm,
        usd_per_minute: args.usd_per_minute,
        concurrent_requests: args.concurrency,
    };
    let new = NewToken {
        tenant,
        name: args.name,
        scopes: args.scopes.into_iter().collect(),
        models: args.models,
        limits,
        expires_at: args.expires.map(|when| when.after(unix_now())),
    };
    let mut session = settings.open_or_make()?;
    let others = Tokens(&mut *session).list(None).map_err(said)?;
    let first = new.scopes.asks_models() && !others.iter().any(|token| token.scopes.asks_models());
    let (token, secret) = Tokens(&mut *session).create(&new).map_err(said)?;
    let ends = token.expires_at.map_or_else(|| "never expires".into(), |at| format!("expires {}", moment(at)));
    let closes =
        first && settings.config.serves_strangers(Some(false)) && !settings.config.serves_strangers(Some(true));
    let told = format!(
        "Token {} of tenant {}: {}, {ends}. It is in {}.{}",
        token.id,
        token.tenant,
        token.scopes,
        settings.database().display(),
        if closes { CLOSES } else { "" }
    );
    Ok(hand_out(&token, &secret, None, &told, args.json))
}

fn list(settings: &Settings, args: &ListArgs) -> Result<ExitCode, String> {
    let tokens = Tokens(&mut *settings.open_to_read()?).list(args.tenant.as_ref()).map_err(said)?;
    let now = unix_now();
    if args.json {
        let views: Vec<_> = tokens.iter().map(|token| TokenView::of(token, now)).collect();
        return Ok(say(&output::json(&views)?));
    }
    if tokens.is_empty() {
        note("no tokens; `can auth token create` makes one");
        return Ok(ExitCode::SUCCESS);
    }
    let heads = ["ID", "TENANT", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES"].map(|head| (head, Align::Left));
    let row = |token: &Token| {
        [
            token.id.to_string(),
            token.tenant.to_string(),
            token.name.clone().unwrap_or_else(|| "-".into()),
            token.scopes.to_string(),
            token.state(now).to_owned(),
            moment(token.created_at),
            expiry(token),
        ]
    };
    Ok(say(&output::table(heads, &tokens.iter().map(row).collect::<Vec<_>>())))
}

fn show(settings: &Settings, args: &ShowArgs) -> Result<ExitCode, String> {
    let token = Tokens(&mut *settings.open_to_read()?).show(&args.id).map_err(said)?;
    let now = unix_now();
    let text = if args.json { output::json(&TokenView::of(&token, now))? } else { description(&token, now) };
    Ok(say(&text))
}

fn revoke(settings: &Settings, id: &str) -> Result<ExitCode, String> {
    let before = unix_now();
    let token = Tokens(&mut *settings.open()?).revoke(id).map_err(said)?;
    let text = match token.revoked_at {
        Some(at) if at < before => format!("Token {id} was revoked already, at {}.\n", moment(at)),
        _ => {
            format!("Token {id} of tenant {} is revoked. A running gateway refuses it within a second.\n", token.tenant)
        }
    };
    Ok(say(&text))
}

fn rotate(settings: &Settings, args: &RotateArgs) -> Result<ExitCode, String> {
    let mut session = settings.open()?;
    let mut tokens = Tokens(&mut *session);
    let (token, secret) = tokens.rotate(&args.id, millis(args.overlap)).map_err(said)?;
    // The new token exists by now: its secret must be shown even if the old token cannot be read.
    let end = tokens.show(&args.id).ok().and_then(|old| old.expires_at);
    let until = end.filter(|end| *end > unix_now()).map(|end| format!("goes on working until {}", moment(end)));
    let told = format!(
        "Token {} of tenant {} takes the place of {}, which {}.",
        token.id,
        token.tenant,
        args.id,
        until.as_deref().unwrap_or("has ended")
    );
    Ok(hand_out(&token, &secret, Some(&args.id), &told, args.json))
}

/// Prints a secret, for the only time.
fn hand_out(token: &Token, secret: &TokenSecret, replaces: Option<&str>, told: &str, json: bool) -> ExitCode {
    #[derive(Serialize)]
    struct Made<'a> {
        #[serde(flatten)]
        token: TokenView,
        #[serde(skip_serializing_if = "Option::is_none")]
        replaces: Option<&'a str>,
        secret: &'a str,
    }
    let text = match json {
        true => {
            let made = Made { token: TokenView::of(token, unix_now()), replaces, secret: secret.expose() };
            output::json(&made)
        }
        false => {
            note(&format!("{told}\nThis is its secret; it is shown this once:"));
            Ok(format!("{}\n", secret.expose()))
        }
    };
    let written = text.and_then(|text| {
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| error.to_string())
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain(&format!(
            "the secret of {0} could not be shown ({error}): revoke it with `can auth token revoke {0}`",
            token.id
        )),
    }
}

fn said(error: TokenError) -> String {
    match error {
        TokenError::Unknown(_) => format!("{error}; `can auth token list` shows them all"),
        error => error.to_string(),
    }
}

fn no_tenant(settings: &Settings, tenant: &TenantId) -> String {
    let known = settings.config.tenants.keys().map(TenantId::as_str);
    let meant = match did_you_mean(tenant.as_str(), known) {
        guess if guess.is_empty() => ".".into(),
        guess => guess,
    };
    let place = match &settings.file {
        Some(file) => format!("`tenants` of {}", file.display()),
        None => "`tenants` of a configuration file, and name the file with --config".into(),
    };
    format!("no tenant is called `{tenant}`{meant} To have it, add `{tenant}: {{}}` to {place}")
}

fn expiry(token: &Token) -> String {
    token.expires_at.map_or_else(|| "never".into(), moment)
}

/// A token for people: one line for each property.
fn description(token: &Token, now: u64) -> String {
    let limits = &token.limits;
    let count = |n: Option<u64>, what: &str| n.map(|n| format!("{} {what}", output::thousands(n)));
    let limits: Vec<_> = [
        count(limits.requests_per_second, "requests/s"),
        count(limits.requests_per_minute, "requests/min"),
        count(limits.tokens_per_minute, "LLM tokens/min"),
        limits.usd_per_minute.map(|usd| format!("${usd}/min")),
        count(limits.concurrent_requests, "open requests"),
    ]
    .into_iter()
    .flatten()
    .collect();
    let or = |list: String, none: &str| if list.is_empty() { none.to_owned() } else { list };
    let mut lines = vec![
        ("id", token.id.to_string()),
        ("tenant", token.tenant.to_string()),
        ("name", token.name.clone().unwrap_or_else(|| "-".into())),
        ("scopes", token.scopes.to_string()),
        ("models", or(token.models.join(", "), "all of its tenant")),
        ("limits", or(limits.join(", "), "those of its tenant")),
        ("state", token.state(now).to_owned()),
        ("created", moment(token.created_at)),
        ("expires", expiry(token)),
    ];
    lines.extend(token.revoked_at.map(|at| ("revoked", moment(at))));
    lines.extend(token.replaced_by.as_ref().map(|id| ("replaced by", id.to_string())));
    lines.into_iter().map(|(key, value)| format!("{:<13}{value}\n", format!("{key}:"))).collect()
}

/// A token for programs: all its properties without the secret.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TokenView {
    id: TokenId,
    tenant: TenantId,
    name: Option<String>,
    scopes: Vec<Scope>,
    models: Vec<String>,
    limits: Limits,
    state: &'static str,
    created_at: Option<String>,
    expires_at: Option<String>,
    revoked_at: Option<String>,
    replaced_by: Option<TokenId>,
}

impl TokenView {
    /// The token in its state at `now`.
    pub(crate) fn of(token: &Token, now: u64) -> Self {
        Self {
            id: token.id.clone(),
            tenant: token.tenant.clone(),
            name: token.name.clone(),
            scopes: Scopes::iter(token.scopes).collect(),
            models: token.models.clone(),
            limits: token.limits.clone(),
            state: token.state(now),
            created_at: rfc3339(token.created_at),
            expires_at: token.expires_at.and_then(rfc3339),
            revoked_at: token.revoked_at.and_then(rfc3339),
            replaced_by: token.replaced_by.clone(),
        }
    }
}

fn model(text: &str) -> Result<String, String> {
    let text = text.trim();
    check_pattern(text).map(|()| text.to_owned())
}

fn usd(text: &str) -> Result<HumanUsd, String> {
    let amount = HumanUsd::parse(text)?;
    if amount == HumanUsd::cents(0) {
        Err("must be larger than 0; leave it out for no limit".into())
    } else {
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NanoUsd;

    fn settings(yaml: &str) -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("can.yaml");
        std::fs::write(&file, yaml).unwrap();
        let settings = Settings::load(Some(file)).map_err(|faults| panic!("{faults}")).unwrap();
        (folder, settings)
    }

    fn token() -> Token {
        Token {
            id: "tok_1".into(),
            tenant: "research".into(),
            name: None,
            scopes: Scopes::CLIENT,
            models: Vec::new(),
            limits: Limits::default(),
            created_at: 1_795_523_400_000,
            expires_at: None,
            revoked_at: None,
            replaced_by: None,
        }
    }

    #[test]
    fn an_unknown_tenant_is_named_with_the_key_to_add() {
        let (_folder, found) = settings("tenants: {research: {}}\n");
        let message = no_tenant(&found, &"reserch".into());
        assert!(
            message
                .starts_with("no tenant is called `reserch`; did you mean `research`? To have it, add `reserch: {}`"),
            "{message}"
        );
        assert!(message.ends_with("can.yaml"), "{message}");
        let message = no_tenant(&Settings { file: None, ..found }, &"marketing".into());
        assert!(message.contains("called `marketing`. To have it") && message.ends_with("--config"), "{message}");
    }

    #[test]
    fn a_token_is_described_in_full() {
        let bare = description(&token(), 1_795_523_400_000);
        let expected = "id:          tok_1\ntenant:      research\nname:        -\nscopes:      ai:read,ai:write\n\
                        models:      all of its tenant\nlimits:      those of its tenant\nstate:       active\n\
                        created:     2026-11-24 12:30 UTC\nexpires:     never\n";
        assert_eq!(bare, expected);
        let limits = Limits {
            requests_per_second: Some(5),
            tokens_per_minute: Some(200_000),
            usd_per_minute: Some(HumanUsd(NanoUsd(1_500_000_000))),
            ..Limits::default()
        };
        let ended = Token {
            limits,
            models: vec!["gpt-4o".into(), "claude-*".into()],
            revoked_at: Some(1_795_523_400_000),
            replaced_by: Some("tok_2".into()),
            ..token()
        };
        let text = description(&ended, 1_795_523_400_000);
        for line in [
            "models:      gpt-4o, claude-*\n",
            "limits:      5 requests/s, 200,000 LLM tokens/min, $1.5/min\n",
            "state:       revoked\n",
            "revoked:     2026-11-24 12:30 UTC\n",
            "replaced by: tok_2\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn programs_see_every_member() {
        let view = serde_json::to_value(TokenView::of(&token(), 1_795_523_400_000)).unwrap();
        let expected = serde_json::json!({
            "id": "tok_1", "tenant": "research", "name": null, "scopes": ["ai:read", "ai:write"], "models": [],
            "limits": {}, "state": "active", "created_at": "2026-11-24T12:30:00Z", "expires_at": null,
            "revoked_at": null, "replaced_by": null,
        });
        assert_eq!(view, expected);
    }

    #[test]
    fn models_and_money_are_checked() {
        assert_eq!(model("claude-*").unwrap(), "claude-*");
        for wrong in ["", "a b", "*-mini"] {
            assert!(model(wrong).is_err(), "{wrong}");
        }
        assert!(usd("0").is_err() && usd("-1").is_err() && usd("x").is_err());
        assert_eq!(usd("0.50").unwrap(), HumanUsd::cents(50));
    }
}
