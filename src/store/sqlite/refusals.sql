-- Version 4: requests that cost nothing and reached no provider, counted in place of a row each. A row is one minute of one
-- tenant and one outcome; what comes in more forms than a minute has room for is counted by the hour, as `other`.
CREATE TABLE refusals (
    start   INTEGER NOT NULL, -- first millisecond of the minute, or of the hour
    tenant  TEXT NOT NULL,
    status  INTEGER NOT NULL, -- as the client got it; 499 for one that left; 0: any
    code    TEXT NOT NULL,    -- of the error; `-`: none
    listing INTEGER NOT NULL, -- 1: a listing of models
    cache   TEXT NOT NULL,
    count   INTEGER NOT NULL,
    PRIMARY KEY (start, tenant, status, code, listing, cache)
) STRICT, WITHOUT ROWID;
