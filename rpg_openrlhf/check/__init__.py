"""Stages of `rpg-check`, which tests in two minutes that this installation and this machine can train."""
