"""Numbers from verdicts: metrics, intervals, comparisons."""
