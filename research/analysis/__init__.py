"""Attention of a model's heads and similarity of their outputs: the analysis of the MW-MAE paper.

``maps`` records attention maps and head outputs, ``attention_stats`` measures distance and entropy,
``similarity`` PWCCA and linear CKA. ``resampling`` has intervals and tests; ``figures`` and
``report`` show the results.
"""
