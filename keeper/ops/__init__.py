"""What an operator sees: logs, metrics, health, alerts, checks, reports."""
