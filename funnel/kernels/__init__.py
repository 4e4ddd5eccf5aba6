"""The arithmetic: arrays and numbers in, arrays and numbers out, compiled by Numba."""
