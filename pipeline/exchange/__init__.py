"""Embeddings for and from other engines: what they hand over is proven, what they get they can read."""
