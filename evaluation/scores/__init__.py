"""Verdicts to numbers: metrics, intervals, comparisons."""
