"""Signals: per-sample columns of a pool, each written by one producer.

Every signal has a record in curation/catalogue.py, which names its producer. The producers stand in rooms:
`raters`, `vectors`, `quality`, `gradients`, `scorers`, `subset_value` and `losses`, over what they share in
`core`.
"""
