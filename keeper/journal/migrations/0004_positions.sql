-- One transaction may take several positions, and repay several assets.
ALTER TABLE attempts ADD COLUMN others TEXT NOT NULL DEFAULT '[]';  -- JSON array of [market, borrower] beside its own

CREATE TABLE exposures_by_asset (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    attempt_id TEXT NOT NULL,
    at         INTEGER NOT NULL,
    asset      TEXT NOT NULL,
    value      TEXT NOT NULL,
    UNIQUE (attempt_id, asset)
);
INSERT INTO exposures_by_asset (id, attempt_id, at, asset, value)
    SELECT id, attempt_id, at, asset, value FROM exposures;
DROP TABLE exposures;
ALTER TABLE exposures_by_asset RENAME TO exposures;
CREATE INDEX exposures_asset ON exposures (asset, at);
