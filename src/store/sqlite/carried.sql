-- Version 5: what was spent according to a file that was deleted or replaced under a running gateway, as far as the gateway still
-- knew it: the sum of each current period, dated with its beginning.
CREATE TABLE carried (
    at      INTEGER NOT NULL, -- first millisecond of the period
    process INTEGER NOT NULL, -- who spent it; 0: processes before
    tenant  TEXT NOT NULL,
    cost    INTEGER NOT NULL
) STRICT;

-- Tells this file from any other: two that follow each other in one place are not the same.
INSERT INTO versions VALUES ('file', random());
