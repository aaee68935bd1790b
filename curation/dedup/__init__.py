"""Copies inside a pool: exact records, near pictures, near texts, near vectors."""
