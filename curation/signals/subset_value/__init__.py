"""The value of a sample, regressed from models trained on subsets (InstructionGPT-4).

Start with `producer.py`.
"""
