"""Integer arithmetic with the rounding in the name."""
