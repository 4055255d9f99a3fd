"""Pure decisions: sizing, choice of pair, route, profit, gates."""
