"""The one exception that this package raises for what a person can mend."""

from __future__ import annotations


class HearMwmaeError(ValueError):
    """Bad input: a file, an option, audio, weights or a recipe. The message says what was wrong and what is expected.

    The commands print it as one line. Any other exception is a bug, and keeps its traceback.
    """
