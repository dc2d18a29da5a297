"""Verdicts: in killable processes, stored as they come, counted as votes."""
