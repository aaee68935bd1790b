"""Text-only quality grades: reward model, LLM judge, Deita's scorers, the mini world's stand-in.

Start with `producer.py`.
"""
