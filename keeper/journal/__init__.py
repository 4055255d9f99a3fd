"""The durable record: what was seen, decided, sent and earned."""

from keeper.journal.journal import Journal, journal_path

__all__ = ["Journal", "journal_path"]
