"""Compound V3 (Comet): the mirrored market, its absorbs and its store front."""

from keeper.protocols.compound_v3.book import CometBook

__all__ = ["CometBook"]
