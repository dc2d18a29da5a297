"""Errors whose message is one line for the user. Standard library only."""


class Refusal(ValueError):
    """A setting, file or row that cannot work. The message names the flag, its value and the fix."""


class NotFinite(RuntimeError):
    """A reward, loss, gradient or weight that is NaN or infinite. The message names it."""
