"""The corpora that the embedded models are pretrained on, and the development tasks: each is collected or rendered by a script.

Run from the repository's root as ``python -m corpora.NAME DEST``; docs/corpora.md has the list. They are no part of the package.
"""
