"""How well a model answers a pool's questions by itself: generated answers, scored by rule or a judge.

Start with `producer.py`.
"""
