"""Checkpoints of a run: files that are complete or absent, the folder that holds them, and the state for resuming."""
