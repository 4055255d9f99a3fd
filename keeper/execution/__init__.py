"""From plan to mined transaction."""
