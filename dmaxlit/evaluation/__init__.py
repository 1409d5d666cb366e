"""Decoding examples and judging the answers."""
