-- The kill switch, and the order of the revocation queue.

-- What an admin cut off. Rows are never removed.
CREATE TABLE kills (
    id          TEXT NOT NULL PRIMARY KEY,
    kind        TEXT NOT NULL, -- what sort of thing is cut off
    name        TEXT NOT NULL, -- which one; empty for everything
    reason      TEXT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('proposed', 'standing', 'lifted')),
    asked_at    BIGINT NOT NULL,
    asked_by    TEXT NOT NULL,
    asked_on    TEXT NOT NULL,
    approved_at BIGINT,
    approved_by TEXT,
    approved_on TEXT,
    lifted_at   BIGINT,
    lifted_by   TEXT,
    lifted_on   TEXT,
    CHECK (state <> 'lifted' OR (lifted_at IS NOT NULL AND lifted_by IS NOT NULL))
);

CREATE INDEX kills_live ON kills (asked_at) WHERE state <> 'lifted';

-- 0: an admin took it. 1: its task is over. 2: its time is over, or a renewal took its place.
ALTER TABLE leases ADD COLUMN urgency BIGINT NOT NULL DEFAULT 1;

DROP INDEX leases_to_revoke;
CREATE INDEX leases_to_revoke ON leases (provider, urgency, requested_at, next_attempt_at)
    WHERE state = 'revoking' AND handle IS NOT NULL AND runs_out_at IS NULL;
