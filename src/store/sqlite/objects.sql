-- Version 3: to whom the objects belong that providers keep for the gateway's own key. A row is one id, as 16 bytes of a hash
-- over the provider's name and the id. Rows are never changed; those of the smallest numbers go first when there are too many.
CREATE TABLE objects (
    seq       INTEGER PRIMARY KEY,
    key       BLOB NOT NULL UNIQUE,
    tenant    TEXT NOT NULL,
    anonymous INTEGER NOT NULL, -- 1: made by a client without a token
    class     INTEGER NOT NULL, -- 0: what is kept for long; 1: a response or a part of one
    at        INTEGER NOT NULL
) STRICT;
