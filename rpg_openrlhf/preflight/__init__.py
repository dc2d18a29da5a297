"""Checks of everything that a run reads, before anything starts. inputs.py calls the others."""
