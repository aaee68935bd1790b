"""Statistics of comparisons, pure functions on arrays: start at `crossed`, the error of a difference."""
