"""A liquidation keeper: watch, plan, prove by simulation, send."""
