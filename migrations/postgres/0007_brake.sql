-- The brake on mass lapse: since when ends for silence are held back, and which silence was let through.

CREATE TABLE brake (
    one         BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
    engaged_at  BIGINT,
    released_at BIGINT,
    released_by TEXT NOT NULL DEFAULT ''
);

INSERT INTO brake (one) VALUES (1);
