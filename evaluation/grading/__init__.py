"""Verdicts on samples: made, stored as they come, and counted as votes."""
