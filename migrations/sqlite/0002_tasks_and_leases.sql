-- Times are milliseconds since the Unix epoch, ids are ULIDs.

CREATE TABLE tasks (
    id        TEXT NOT NULL PRIMARY KEY,
    session   TEXT NOT NULL,
    parent    TEXT REFERENCES tasks (id),
    opened_by TEXT NOT NULL,
    stage     TEXT NOT NULL,
    node      TEXT,
    anchor    TEXT NOT NULL, -- JSON
    key_hash  BLOB,
    ceiling   TEXT NOT NULL, -- JSON
    intent    TEXT NOT NULL,
    opened_at INTEGER NOT NULL,
    deadline  INTEGER NOT NULL,
    -- The earliest deadline among the task and all above it: after that nothing may be added here.
    lapses_at INTEGER NOT NULL,
    state     TEXT NOT NULL CHECK (state IN ('open', 'ended')),
    ended_at  INTEGER,
    end_cause TEXT,
    CHECK ((parent IS NULL) = (id = session)),
    CHECK (state = 'open' OR (ended_at IS NOT NULL AND end_cause IS NOT NULL))
) STRICT;

CREATE INDEX tasks_of_session ON tasks (session);
CREATE INDEX tasks_open_under ON tasks (parent) WHERE state = 'open';
CREATE INDEX tasks_open_by ON tasks (opened_by) WHERE state = 'open';
CREATE INDEX tasks_open_on ON tasks (node) WHERE state = 'open';
CREATE INDEX tasks_due ON tasks (deadline) WHERE state = 'open';

CREATE TABLE leases (
    id              TEXT NOT NULL PRIMARY KEY,
    task            TEXT NOT NULL REFERENCES tasks (id),
    session         TEXT NOT NULL,
    spiffe_id       TEXT NOT NULL,
    node            TEXT,
    scope           TEXT NOT NULL,
    parameters      TEXT NOT NULL, -- JSON
    provider        TEXT NOT NULL,
    revocability    TEXT NOT NULL,
    worst_case_ms   INTEGER NOT NULL,
    renews          TEXT,
    opened_at       INTEGER NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'active', 'revoking', 'ended')),
    pending_since   INTEGER,
    -- The last moment a credential of it can work; until the lease is over.
    bound_at        INTEGER,
    handle          TEXT, -- JSON; what takes it back, never a secret
    requested_at    INTEGER,
    cause           TEXT, -- JSON
    applied_at      INTEGER,
    runs_out_at     INTEGER,
    ended_at        INTEGER,
    outcome         TEXT,
    evidence        TEXT,
    -- Its place in the revocation queue.
    next_attempt_at INTEGER,
    claimed_until   INTEGER,
    attempts        INTEGER NOT NULL DEFAULT 0,
    last_error      TEXT NOT NULL DEFAULT '',
    CHECK (state = 'ended' OR bound_at IS NOT NULL),
    CHECK (state <> 'pending' OR pending_since IS NOT NULL),
    CHECK (state <> 'active' OR handle IS NOT NULL),
    CHECK (state <> 'revoking' OR (requested_at IS NOT NULL AND cause IS NOT NULL)),
    CHECK (state <> 'ended' OR (ended_at IS NOT NULL AND outcome IS NOT NULL))
) STRICT;

CREATE INDEX leases_live_in ON leases (task) WHERE state <> 'ended';
CREATE INDEX leases_live_of ON leases (spiffe_id) WHERE state <> 'ended';
CREATE INDEX leases_due ON leases (bound_at) WHERE state <> 'ended';
CREATE INDEX leases_pending ON leases (pending_since) WHERE state = 'pending';
CREATE INDEX leases_to_revoke ON leases (provider, requested_at, next_attempt_at)
    WHERE state = 'revoking' AND handle IS NOT NULL AND runs_out_at IS NULL;
