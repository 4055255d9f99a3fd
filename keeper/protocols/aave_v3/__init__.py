"""Aave V3 and its 3.0.2 forks (Spark): the mirrored market and its flash loans."""

from keeper.protocols.aave_v3.book import AaveV3Book
from keeper.protocols.aave_v3.flash import AaveV3Flash

__all__ = ["AaveV3Book", "AaveV3Flash"]
