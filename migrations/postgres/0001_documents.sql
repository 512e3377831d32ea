-- What the platform team applied, and every version it ever had.

CREATE TABLE rules (
    one      BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    revision BIGINT NOT NULL
);

INSERT INTO rules (one, revision) VALUES (1, 0);

CREATE TABLE documents (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    body       JSONB NOT NULL,
    digest     TEXT NOT NULL, -- SHA-256 of the canonical body, hexadecimal
    revision   BIGINT NOT NULL,
    applied_at BIGINT NOT NULL,
    applied_by TEXT NOT NULL,
    PRIMARY KEY (kind, name)
);

CREATE TABLE document_history (
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    revision   BIGINT NOT NULL,
    body       JSONB, -- absent where the document was removed
    digest     TEXT,
    applied_at BIGINT NOT NULL,
    applied_by TEXT NOT NULL,
    PRIMARY KEY (kind, name, revision)
);
