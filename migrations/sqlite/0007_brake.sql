-- The brake on mass lapse: since when ends for silence are held back, and which silence was let through.

CREATE TABLE brake (
    one         INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
    engaged_at  INTEGER,
    released_at INTEGER,
    released_by TEXT NOT NULL DEFAULT ''
) STRICT;

INSERT INTO brake (one) VALUES (1);
