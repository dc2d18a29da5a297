"""Errors that are one line for the user. Standard library only."""


class Refusal(ValueError):
    """A setting, file or row that cannot work: the line names the flag, its value and the fix."""


class NotFinite(RuntimeError):
    """A reward, loss, gradient or weight that is NaN or infinite: the line names it."""
