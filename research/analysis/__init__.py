"""Attention of a model's heads and similarity of their outputs: the analysis of the MW-MAE paper.

`maps` records attention maps and head outputs, `statistics` measures distance and entropy,
`similarity` PWCCA. `measure` does all of it for one model; `figures` show it.
"""
