"""Test-set leaks: samples of a pool that repeat images or questions of benchmarks."""
