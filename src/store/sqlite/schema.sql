-- Version 1. Files exist that were made by this text: what is new goes into a step of its own (`STEPS` in mod.rs).
-- Times are milliseconds since 1970, money is billionths of a US dollar.

CREATE TABLE tokens (
    id         TEXT PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE, -- SHA-256 of the secret
    tenant     TEXT NOT NULL,
    name       TEXT,
    scopes     TEXT NOT NULL,        -- JSON list
    models     TEXT NOT NULL,        -- JSON list; empty: all
    limits     TEXT NOT NULL,        -- JSON, as in the configuration
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    replaced_by TEXT
) STRICT, WITHOUT ROWID;

-- Grows with every change of the tokens, so that a running gateway sees in one look whether to read them again.
CREATE TABLE versions (subject TEXT PRIMARY KEY, version INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO versions VALUES ('tokens', 0);
CREATE TRIGGER tokens_insert AFTER INSERT ON tokens BEGIN UPDATE versions SET version = version + 1 WHERE subject = 'tokens'; END;
CREATE TRIGGER tokens_update AFTER UPDATE ON tokens BEGIN UPDATE versions SET version = version + 1 WHERE subject = 'tokens'; END;
CREATE TRIGGER tokens_delete AFTER DELETE ON tokens BEGIN UPDATE versions SET version = version + 1 WHERE subject = 'tokens'; END;

-- One row per finished request. The id is a time-ordered UUID: rows lie in the order of time, and a span of time is a
-- range of ids.
CREATE TABLE entries (
    id                      BLOB PRIMARY KEY,
    at                      INTEGER NOT NULL, -- admission: decides the budget's period
    process                 INTEGER NOT NULL, -- who wrote it
    tenant                  TEXT NOT NULL,
    token                   TEXT,
    endpoint                TEXT NOT NULL,
    route                   TEXT NOT NULL,
    provider                TEXT NOT NULL,
    model                   TEXT NOT NULL,
    prompt_tokens           INTEGER NOT NULL,
    cached_tokens           INTEGER NOT NULL,
    cache_write_tokens      INTEGER NOT NULL,
    completion_tokens       INTEGER NOT NULL,
    reasoning_tokens        INTEGER NOT NULL,
    audio_prompt_tokens     INTEGER NOT NULL,
    audio_completion_tokens INTEGER NOT NULL,
    image_prompt_tokens     INTEGER NOT NULL,
    cost                    INTEGER NOT NULL,
    saved                   INTEGER NOT NULL, -- what a cache hit would have cost
    basis                   TEXT NOT NULL,    -- where the cost comes from
    cache                   TEXT NOT NULL,
    status                  INTEGER NOT NULL,
    attempts                INTEGER NOT NULL,
    first_byte_us           INTEGER,
    duration_us             INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is left of entries that are older than the retention.
CREATE TABLE days (
    day               INTEGER NOT NULL, -- its first millisecond, UTC
    tenant            TEXT NOT NULL,
    provider          TEXT NOT NULL,
    model             TEXT NOT NULL,
    calls             INTEGER NOT NULL,
    hits              INTEGER NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost              INTEGER NOT NULL,
    saved             INTEGER NOT NULL,
    PRIMARY KEY (day, tenant, provider, model)
) STRICT, WITHOUT ROWID;

-- One row per threshold that a budget has passed; the key makes each happen once.
CREATE TABLE alerts (
    tenant       TEXT NOT NULL,
    period       TEXT NOT NULL,
    hard         INTEGER NOT NULL,
    period_start INTEGER NOT NULL,
    threshold    INTEGER NOT NULL, -- percent
    raised_at    INTEGER NOT NULL,
    body         TEXT NOT NULL,    -- what the webhook gets
    attempts     INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    PRIMARY KEY (tenant, period, hard, period_start, threshold)
) STRICT, WITHOUT ROWID;
