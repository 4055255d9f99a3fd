"""Uniswap V3: exact pool arithmetic, the mirror of a factory's pools, and flash loans."""
