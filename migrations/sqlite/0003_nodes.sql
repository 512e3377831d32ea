-- Node agents, as they last spoke.

CREATE TABLE nodes (
    spiffe_id    TEXT NOT NULL PRIMARY KEY,
    boot_id      TEXT NOT NULL,
    epoch        INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('attached', 'lapsed'))
) STRICT;

CREATE INDEX nodes_by_silence ON nodes (last_seen_at) WHERE state = 'attached';
