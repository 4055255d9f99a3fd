"""Balancer V2: weighted pools inside one Vault, mirrored, traded with, and borrowed from."""
