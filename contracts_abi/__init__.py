"""ABI files of the contracts the keeper calls, and its own executor's source and artifact. Data only."""
