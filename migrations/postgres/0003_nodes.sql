-- Node agents, as they last spoke.

CREATE TABLE nodes (
    spiffe_id    TEXT NOT NULL PRIMARY KEY,
    boot_id      TEXT NOT NULL,
    epoch        BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('attached', 'lapsed'))
);

CREATE INDEX nodes_by_silence ON nodes (last_seen_at) WHERE state = 'attached';
