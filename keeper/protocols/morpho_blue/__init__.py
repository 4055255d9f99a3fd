"""Morpho Blue: every market of one deployment mirrored, its pre-liquidation contracts, and its free flash loan."""

from keeper.protocols.morpho_blue.book import MorphoBlueBook
from keeper.protocols.morpho_blue.flash import MorphoBlueFlash

__all__ = ["MorphoBlueBook", "MorphoBlueFlash"]
