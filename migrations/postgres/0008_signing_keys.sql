-- Signing keys that an admin took out. No key is here, nor its public half: a row withholds one that its holder has, and
-- brings none. Rows are never removed.

CREATE TABLE withheld_keys (
    purpose      TEXT NOT NULL, -- access, federation, receipt
    kid          TEXT NOT NULL, -- thumbprint of the public half (RFC 7638)
    announced_at BIGINT NOT NULL,
    first        BOOLEAN NOT NULL, -- whether it was the first of its use
    why          TEXT NOT NULL CHECK (why IN ('retired', 'compromised')),
    withheld_at  BIGINT NOT NULL,
    PRIMARY KEY (purpose, kid)
);
