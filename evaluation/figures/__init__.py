"""Figures, one file for each kind: start at `comparison`, which draws all of one experiment."""
