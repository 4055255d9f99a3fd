-- What an operator and the breakers have stopped. It survives a restart: only a person, or a quiet time, starts again.

CREATE TABLE pauses (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    at     INTEGER NOT NULL,
    detail TEXT NOT NULL
);

-- One row per breaker that was ever open or reset. What happened up to the three marks is not counted any more.
CREATE TABLE breakers (
    name           TEXT PRIMARY KEY,
    open_at        INTEGER,           -- NULL while it is closed
    detail         TEXT NOT NULL,
    numbers        TEXT NOT NULL,     -- JSON object of decimal strings
    after_event    INTEGER NOT NULL,  -- attempt_events.id
    after_exposure INTEGER NOT NULL,  -- exposures.id
    after_note     INTEGER NOT NULL   -- breaker_events.id
) WITHOUT ROWID;

-- Everything that happened to breakers, for the morning after. 'noted' is counted by a breaker, the rest is history.
CREATE TABLE breaker_events (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    name   TEXT NOT NULL,
    event  TEXT NOT NULL CHECK (event IN ('noted', 'opened', 'healed', 'reset', 'paused', 'resumed', 'quarantined')),
    detail TEXT NOT NULL
);
CREATE INDEX breaker_events_name ON breaker_events (name, event, at);

-- Positions whose attempt failed in a way nobody can explain.
CREATE TABLE quarantines (
    market     TEXT NOT NULL,
    borrower   TEXT NOT NULL,
    at         INTEGER NOT NULL,
    attempt_id TEXT NOT NULL,
    detail     TEXT NOT NULL,
    PRIMARY KEY (market, borrower)
) WITHOUT ROWID;

-- What each order repays, valued in the native token (wei) and written before the order is sent.
CREATE TABLE exposures (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id TEXT NOT NULL UNIQUE,
    at         INTEGER NOT NULL,
    asset      TEXT NOT NULL,
    value      TEXT NOT NULL
);
CREATE INDEX exposures_asset ON exposures (asset, at);

CREATE INDEX outcomes_at ON outcomes (at);
