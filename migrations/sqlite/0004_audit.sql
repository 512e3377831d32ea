-- Hash-chained records: hash = SHA-256(prev_hash || bytes). One chain per writer and stream.

CREATE TABLE audit (
    writer    TEXT NOT NULL,
    stream    TEXT NOT NULL,
    seq       INTEGER NOT NULL,
    prev_hash BLOB NOT NULL,
    hash      BLOB NOT NULL,
    at        INTEGER NOT NULL,
    bytes     BLOB NOT NULL, -- RFC 8785 JSON, as hashed
    PRIMARY KEY (writer, stream, seq)
) STRICT;

-- Records that could not be written when something had to be taken back all the same, until a record says so. The row
-- stands from the first start on, so that counting needs no new page of a full disk.
CREATE TABLE audit_lost (
    writer  TEXT NOT NULL PRIMARY KEY,
    records INTEGER NOT NULL
) STRICT;
