"""The node: connection and failover, heads and reorganisations, logs, batched views."""
