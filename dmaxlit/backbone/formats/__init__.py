"""What models look like on disk: folders, published checkpoints, and the way between them."""
