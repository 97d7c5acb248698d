"""Scripts behind the experiments: corpora, analysis, benchmarks, the comparison, the log.

They are no part of the package, are run as ``python -m research.NAME`` in the repository's root,
and promise nothing.
"""
