-- Every liquidation the protocols' events told of, ours and other people's, and why it was not ours.
CREATE TABLE liquidations (
    id               INTEGER PRIMARY KEY,
    at               INTEGER NOT NULL,     -- when it was written
    market           TEXT NOT NULL,
    borrower         TEXT NOT NULL,
    block_number     INTEGER NOT NULL,
    block_hash       TEXT NOT NULL,        -- '' where the node could not be asked
    log_index        INTEGER NOT NULL,
    tx_hash          TEXT NOT NULL,
    tx_index         INTEGER,              -- NULL, here and below: the node could not be asked
    liquidator       TEXT NOT NULL,        -- as the event says
    sender           TEXT,                 -- who signed the transaction
    target           TEXT,                 -- whom it called
    debt             TEXT NOT NULL,        -- symbols
    collateral       TEXT NOT NULL,
    repaid           TEXT NOT NULL,        -- base units
    seized           TEXT NOT NULL,        -- base units, received by the liquidator
    gross            TEXT,                 -- wei at the book's prices; NULL without prices
    gas_used         TEXT,
    gas_price        TEXT,                 -- effective, wei per gas
    coinbase_paid    TEXT,                 -- wei sent to the fee recipient beyond fees; NULL: not known
    coinbase_at_most TEXT,                 -- wei all transactions of the block sent it beyond fees; NULL: not known
    ours             INTEGER NOT NULL,
    attempt_id       TEXT,                 -- ours that did it, or that was out for it
    our_index        INTEGER,              -- where that attempt stands in the same block
    reason           TEXT,                 -- why it was not ours; NULL where it was
    detail           TEXT NOT NULL,
    first_seen       INTEGER,              -- blocks at which we saw it liquidatable; NULL: never
    last_seen        INTEGER,
    plan_gain        TEXT,                 -- wei, our last plan for it; NULL: there was none
    plan_cost        TEXT,
    plan_net         TEXT,
    UNIQUE (market, tx_hash, log_index, block_number),
    CHECK (ours = (reason IS NULL))
);
CREATE INDEX liquidations_block ON liquidations (block_number);
