"""Scores from small nets over vectors, trained with a model (Self-Filter, CoIDO) or alone (OnceSelect).

Start with `joint.py`.
"""
