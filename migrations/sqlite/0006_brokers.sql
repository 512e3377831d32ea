-- Several brokers share a PostgreSQL database. One broker owns a SQLite database, which has the same tables so that rows
-- can be carried over; it uses none of them.

-- One row for each broker's name. Whoever raises the epoch fences what still writes under the one before.
CREATE TABLE brokers (
    writer  TEXT NOT NULL PRIMARY KEY,
    epoch   INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('live', 'fenced', 'stopped'))
) STRICT;

-- How many leases are not over, by identity, node, scope and session.
CREATE TABLE live_leases (
    holder TEXT NOT NULL PRIMARY KEY,
    leases INTEGER NOT NULL
) STRICT;

-- Grows with every word on an approval: decisions are made from the documents and the approvals together.
ALTER TABLE rules ADD COLUMN approvals INTEGER NOT NULL DEFAULT 0;

-- The broker that works on its revocation.
ALTER TABLE leases ADD COLUMN claimed_by TEXT;

-- When a broker last held a stream of it, where that is its anchor.
ALTER TABLE tasks ADD COLUMN stream_seen_at INTEGER;

-- What no release before this schema may open.
CREATE TABLE schema_floor (
    one    INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    oldest INTEGER NOT NULL
) STRICT;

INSERT INTO schema_floor (one, oldest) VALUES (1, 6);
