"""Problem sets: raw sources to training files (pipeline.py), and the rows of a run (prompt_sets.py)."""
