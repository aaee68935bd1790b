"""The report of one experiment: start at `write`, and at `summary` for what it says.

Every view is a pure function of a `Comparison` and a `Context`.
"""
