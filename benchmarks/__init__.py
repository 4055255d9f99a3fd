"""Timings beside a baseline measured in the same run: only the ratios mean something on a busy machine."""
