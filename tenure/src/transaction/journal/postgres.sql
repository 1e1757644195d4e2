-- A journal of transactions: what coordinators and sagas must not forget. Rows without an expiry are not settled yet.
CREATE TABLE IF NOT EXISTS tenure_journal (
    id      text COLLATE "C" PRIMARY KEY,
    version bigint NOT NULL,
    value   bytea NOT NULL,
    expires timestamptz
);
CREATE INDEX IF NOT EXISTS tenure_journal_unsettled ON tenure_journal (id) WHERE expires IS NULL;
CREATE INDEX IF NOT EXISTS tenure_journal_expires ON tenure_journal (expires) WHERE expires IS NOT NULL;
