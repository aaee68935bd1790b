"""Figures, one file for each kind: start at `draw`, which draws all of one comparison."""
