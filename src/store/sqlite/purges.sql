-- Version 2: what of the cache no longer counts. A row covers the entries of its tenant, model and key, where an empty name
-- stands for any; those whose requests were sent at its time or before are dead.
CREATE TABLE purges (
    tenant TEXT NOT NULL,
    model  TEXT NOT NULL,
    key    TEXT NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (tenant, model, key)
) STRICT, WITHOUT ROWID;

-- A running gateway reads them again when their version has grown.
INSERT INTO versions VALUES ('purges', 0);
CREATE TRIGGER purges_insert AFTER INSERT ON purges BEGIN UPDATE versions SET version = version + 1 WHERE subject = 'purges'; END;
CREATE TRIGGER purges_update AFTER UPDATE ON purges BEGIN UPDATE versions SET version = version + 1 WHERE subject = 'purges'; END;
