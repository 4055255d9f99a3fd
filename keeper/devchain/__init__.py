"""A local chain carrying the real protocols' published bytecode: for the demo, for tests, for rehearsal."""
