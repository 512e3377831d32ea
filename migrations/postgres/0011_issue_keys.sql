-- Keys under which a credential is asked for again. Neither the key nor the request is here: hashes of them are.
CREATE TABLE issue_keys (
    id      BYTEA NOT NULL PRIMARY KEY, -- of the key, its caller, node and task
    request BYTEA NOT NULL, -- of what was asked
    task    TEXT NOT NULL REFERENCES tasks (id),
    lease   TEXT NOT NULL REFERENCES leases (id) -- what was issued under it last
);

-- What took the place of a lease.
CREATE INDEX leases_by_renewed ON leases (renews) WHERE renews IS NOT NULL;
