"""One package per lending protocol: its book, its rules, its calls."""
