-- Amounts (wei, base units, gas) are decimal TEXT: a uint256 does not fit SQLite's 64-bit integers.
-- Block numbers, nonces and Unix seconds are INTEGER. Addresses and hashes are lower-case 0x TEXT.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

-- One row per hour, so that "what was looked at" stays small for ever.
CREATE TABLE passes (
    hour         INTEGER PRIMARY KEY,  -- Unix time / 3600
    passes       INTEGER NOT NULL,
    first_block  INTEGER NOT NULL,
    last_block   INTEGER NOT NULL,
    liquidatable INTEGER NOT NULL,     -- positions × passes
    skipped      INTEGER NOT NULL,
    attempted    INTEGER NOT NULL
);

-- How each liquidatable position ended a pass. Consecutive skips for one reason share a row.
CREATE TABLE decisions (
    id          INTEGER PRIMARY KEY,
    market      TEXT NOT NULL,
    borrower    TEXT NOT NULL,
    reason      TEXT,                  -- NULL for an attempt
    attempt_id  TEXT REFERENCES attempts (id),
    detail      TEXT NOT NULL,         -- of the last pass
    numbers     TEXT NOT NULL,         -- JSON object of decimal strings, of the last pass
    first_block INTEGER NOT NULL,
    last_block  INTEGER NOT NULL,
    first_at    INTEGER NOT NULL,
    last_at     INTEGER NOT NULL,
    passes      INTEGER NOT NULL,
    CHECK ((reason IS NULL) <> (attempt_id IS NULL))
);
CREATE INDEX decisions_last_block ON decisions (last_block);
CREATE INDEX decisions_borrower ON decisions (borrower, last_block);

CREATE TABLE attempts (
    id             TEXT PRIMARY KEY,   -- 0x hex of the executor's settlement id
    market         TEXT NOT NULL,
    borrower       TEXT NOT NULL,
    signer         TEXT NOT NULL,
    nonce          INTEGER NOT NULL,
    executor       TEXT NOT NULL,
    state          TEXT NOT NULL CHECK (state IN
                       ('intent', 'signed', 'sent', 'mined', 'reverted', 'replaced', 'dropped', 'cancelled')),
    detail         TEXT NOT NULL,
    created_at     INTEGER NOT NULL,
    head_number    INTEGER NOT NULL,
    head_hash      TEXT NOT NULL,
    sent_number    INTEGER,
    ended_number   INTEGER,
    ended_hash     TEXT,
    closed_at      INTEGER,            -- set once nothing can change the state any more
    predicted_gain TEXT NOT NULL,
    predicted_gas  TEXT NOT NULL,
    predicted_net  TEXT NOT NULL,
    plan           TEXT NOT NULL       -- JSON object
) WITHOUT ROWID;
CREATE INDEX attempts_unsettled ON attempts (signer, nonce) WHERE closed_at IS NULL;
CREATE INDEX attempts_created ON attempts (created_at);
-- Of all attempts at a nonce, one at most may still land or has landed.
CREATE UNIQUE INDEX attempts_one_per_nonce ON attempts (signer, nonce)
    WHERE state IN ('intent', 'signed', 'sent', 'mined', 'reverted', 'cancelled');

CREATE TABLE attempt_events (
    id         INTEGER PRIMARY KEY,
    attempt_id TEXT NOT NULL REFERENCES attempts (id),
    at         INTEGER NOT NULL,
    from_state TEXT,                   -- NULL for the first
    to_state   TEXT NOT NULL,
    tx_hash    TEXT,
    detail     TEXT NOT NULL
);
CREATE INDEX attempt_events_attempt ON attempt_events (attempt_id, id);

CREATE TABLE transactions (
    id         INTEGER PRIMARY KEY,
    attempt_id TEXT NOT NULL REFERENCES attempts (id),
    kind       TEXT NOT NULL CHECK (kind IN ('execute', 'cancel')),
    nonce      INTEGER NOT NULL,
    hash       TEXT,                   -- NULL in a dry run, where nothing is signed
    raw        BLOB NOT NULL,
    gas_limit  TEXT NOT NULL,
    max_fee    TEXT NOT NULL,
    tip        TEXT NOT NULL,
    signed_at  INTEGER NOT NULL,
    sent_at    INTEGER                 -- first time an endpoint took it
);
CREATE INDEX transactions_attempt ON transactions (attempt_id, id);
CREATE INDEX transactions_hash ON transactions (hash);

-- Read from the receipt; the prediction is in attempts.
CREATE TABLE outcomes (
    attempt_id    TEXT PRIMARY KEY REFERENCES attempts (id),
    at            INTEGER NOT NULL,
    state         TEXT NOT NULL,
    tx_hash       TEXT NOT NULL,
    block_number  INTEGER NOT NULL,
    block_hash    TEXT NOT NULL,
    gas_used      TEXT NOT NULL,
    gas_price     TEXT NOT NULL,       -- effective, wei per gas
    gain          TEXT NOT NULL,       -- wei received by the beneficiary
    reported_gain TEXT,                -- wei stated by the executor's event
    net           TEXT NOT NULL,
    revert        TEXT,
    gain_error    TEXT NOT NULL,       -- realised less predicted, wei
    gas_error     TEXT NOT NULL        -- realised less predicted, units
) WITHOUT ROWID;
