-- What delegation, approvals and once-only assertions need.

ALTER TABLE tasks ADD COLUMN labels JSONB NOT NULL DEFAULT '{}';
-- Present while the task waits for the workload it was opened for: what its deadline becomes once it is claimed.
ALTER TABLE tasks ADD COLUMN offer_deadline BIGINT;
-- When that was.
ALTER TABLE tasks ADD COLUMN claimed_at BIGINT;

-- What a use of the credential may leave behind, in the words of its scope.
ALTER TABLE leases ADD COLUMN leaves_behind JSONB; -- absent where nothing stays
-- SHA-256 of what policies put into the credential, hexadecimal; absent if nothing.
ALTER TABLE leases ADD COLUMN narrowed TEXT;

CREATE INDEX leases_live_of_scope ON leases (scope) WHERE state <> 'ended';
CREATE INDEX leases_live_of_session ON leases (session) WHERE state <> 'ended';

-- Requests for temporary access, and what a second admin said of them. Rows are never removed.
CREATE TABLE approvals (
    id           TEXT NOT NULL PRIMARY KEY,
    identity     TEXT NOT NULL,
    scope        TEXT NOT NULL,
    parameters   JSONB NOT NULL,
    until        BIGINT NOT NULL,
    ticket       TEXT NOT NULL,
    reason       TEXT NOT NULL,
    digest       TEXT NOT NULL, -- of all that is approved, the scope's document included; hexadecimal
    requested_at BIGINT NOT NULL,
    requested_by TEXT NOT NULL,
    requested_on TEXT NOT NULL, -- the host the request came from
    state        TEXT NOT NULL CHECK (state IN ('requested', 'approved', 'refused', 'withdrawn')),
    decided_at   BIGINT,
    decided_by   TEXT,
    decided_on   TEXT,
    CHECK (state = 'requested' OR (decided_at IS NOT NULL AND decided_by IS NOT NULL))
);

CREATE INDEX approvals_by_until ON approvals (until) WHERE state IN ('requested', 'approved');

-- Hashes of client assertions that were taken, until they run out: none is taken twice.
CREATE TABLE taken_assertions (
    hash       BYTEA NOT NULL PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE INDEX taken_assertions_by_expiry ON taken_assertions (expires_at);
