-- Sessions of AWS roles and the documents that deny them. Issue times are seconds since the Unix epoch, as AWS has them.

CREATE TABLE aws_slots (
    role        TEXT NOT NULL,
    slot        TEXT NOT NULL,
    block       TEXT NOT NULL, -- the slot's first two characters
    lease       TEXT NOT NULL UNIQUE, -- or the id of a canary, which is no lease
    tree        TEXT NOT NULL, -- the session that owns the block, or 'canary'
    revoke_when TEXT NOT NULL,
    earliest    INTEGER NOT NULL, -- bounds of aws:TokenIssueTime
    latest      INTEGER NOT NULL,
    gone_at     INTEGER NOT NULL,
    -- Version of the role's document that first denies it; absent while it lives.
    denied_in   INTEGER,
    PRIMARY KEY (role, slot)
) STRICT;

CREATE INDEX aws_slots_of_tree ON aws_slots (role, tree, block);
CREATE INDEX aws_slots_of_block ON aws_slots (role, block);

CREATE TABLE aws_documents (
    role            TEXT NOT NULL PRIMARY KEY,
    -- Who may write it, under which number, until when.
    owner           TEXT NOT NULL,
    fence           INTEGER NOT NULL,
    held_until      INTEGER NOT NULL,
    -- The last one that was asked for, that the target took, that was shown to be effective.
    version         INTEGER NOT NULL,
    written_version INTEGER NOT NULL,
    proven_version  INTEGER NOT NULL,
    -- Of the one that the target took last: the moment of the state it was made from, when it was taken, its SHA-256.
    written_of      INTEGER,
    written_at      INTEGER,
    digest          TEXT NOT NULL,
    evidence        TEXT NOT NULL,
    CHECK (proven_version <= written_version AND written_version <= version),
    CHECK ((written_of IS NULL) = (written_at IS NULL))
) STRICT;
