"""The report of one experiment: start at `markdown`.

Every view is a pure function of a `Comparison` and a `Context`.
"""
