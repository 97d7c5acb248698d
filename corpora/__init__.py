"""Scripts that collect or render audio for pretraining, and make the development tasks.

Run from the repository's root as ``python -m corpora.NAME DEST``; docs/corpora.md has the list.
They are not part of the package.
"""
