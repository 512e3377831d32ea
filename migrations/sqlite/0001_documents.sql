-- What the platform team applied, and every version it ever had.

CREATE TABLE rules (
    one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO rules (one, revision) VALUES (1, 0);

CREATE TABLE documents (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    body       TEXT NOT NULL, -- JSON
    digest     TEXT NOT NULL, -- SHA-256 of the canonical body, hexadecimal
    revision   INTEGER NOT NULL,
    applied_at INTEGER NOT NULL,
    applied_by TEXT NOT NULL,
    PRIMARY KEY (kind, name)
) STRICT;

CREATE TABLE document_history (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    revision   INTEGER NOT NULL,
    body       TEXT, -- JSON; absent where the document was removed
    digest     TEXT,
    applied_at INTEGER NOT NULL,
    applied_by TEXT NOT NULL,
    PRIMARY KEY (kind, name, revision)
) STRICT;
