"""Benchmarks, gold answers, prompts, and problems that training has seen."""
