"""Uniswap V4: hook-free pools of fixed fee inside one PoolManager, mirrored, traded with, and borrowed from."""
