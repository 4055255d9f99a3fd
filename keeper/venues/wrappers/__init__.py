"""Tokens that stand for a share of another: wrapped and unwrapped at the contract's own rate, as legs of a route."""
