"""Projected per-sample LoRA gradients and their influence on a validation set (LESS, ICONS).

Start with `producer.py`.
"""
