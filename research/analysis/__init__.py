"""Attention of a model's heads and similarity of their outputs: the analysis of the MW-MAE paper.

`maps` records attention maps and head outputs, `statistics` measures distance and entropy,
`similarity` PWCCA and linear CKA, `windows` tests whether equal windows explain the similarity.
`measure` does all of it for one model; `tables` and `figures` show it.
"""
