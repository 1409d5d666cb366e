"""Models on disk: folders, published checkpoints, and conversion between them."""
