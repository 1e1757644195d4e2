-- What takes part in two-phase transactions: their shares, and the newest token of each lock.
CREATE TABLE IF NOT EXISTS tenure_share (
    participant text NOT NULL,
    id          text NOT NULL,
    lock        text NOT NULL,
    fence       bigint NOT NULL,
    state       text NOT NULL CHECK (state IN ('staged', 'committed', 'rolled-back')),
    work        bytea,
    finished    timestamptz,
    since       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (participant, id)
);
CREATE INDEX IF NOT EXISTS tenure_share_lock ON tenure_share (participant, lock, fence);
CREATE INDEX IF NOT EXISTS tenure_share_open ON tenure_share (participant, lock) WHERE finished IS NULL;
CREATE TABLE IF NOT EXISTS tenure_share_fence (
    participant text NOT NULL,
    lock        text NOT NULL,
    fence       bigint NOT NULL,
    used        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (participant, lock)
);
