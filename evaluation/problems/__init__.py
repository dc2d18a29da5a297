"""What is asked: benchmarks, gold answers, prompts, and which problems training has seen."""
