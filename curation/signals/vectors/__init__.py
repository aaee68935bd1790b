"""Embeddings, CLIP scores and clusters: signals that are vectors or follow from vectors.

Start with `embeddings.py`.
"""
