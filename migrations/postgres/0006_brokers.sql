-- Several brokers on one database. Their own times here are by the database's clock.

-- One row for each broker's name. Whoever raises the epoch fences what still writes under the one before.
CREATE TABLE brokers (
    writer  TEXT NOT NULL PRIMARY KEY,
    epoch   BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('live', 'fenced', 'stopped'))
);

-- How many leases are not over, by identity, node, scope and session.
CREATE TABLE live_leases (
    holder TEXT NOT NULL PRIMARY KEY,
    leases BIGINT NOT NULL
);

INSERT INTO live_leases (holder, leases)
SELECT held.holder, COUNT(*)
FROM leases,
     LATERAL (VALUES ('identity ' || spiffe_id), ('node ' || node), ('scope ' || scope), ('session ' || session))
         AS held (holder)
WHERE state <> 'ended' AND held.holder IS NOT NULL
GROUP BY held.holder;

-- Grows with every word on an approval: decisions are made from the documents and the approvals together.
ALTER TABLE rules ADD COLUMN approvals BIGINT NOT NULL DEFAULT 0;

-- The broker that works on its revocation.
ALTER TABLE leases ADD COLUMN claimed_by TEXT;

CREATE INDEX leases_claimed ON leases (claimed_by) WHERE claimed_by IS NOT NULL;

-- When a broker last held a stream of it, where that is its anchor.
ALTER TABLE tasks ADD COLUMN stream_seen_at BIGINT;

CREATE INDEX tasks_on_streams ON tasks (id) WHERE state = 'open' AND anchor ->> 'kind' = 'stream';

-- What the other brokers ended a moment ago.
CREATE INDEX tasks_by_end ON tasks (ended_at) WHERE state = 'ended';
CREATE INDEX leases_by_request ON leases (requested_at) WHERE state = 'revoking';
CREATE INDEX leases_by_proof ON leases (ended_at) WHERE state = 'ended' AND outcome = 'verified';

-- What no release before this schema may open.
CREATE TABLE schema_floor (
    one    BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    oldest BIGINT NOT NULL
);

INSERT INTO schema_floor (one, oldest) VALUES (1, 6);
