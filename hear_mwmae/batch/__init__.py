"""Many audio files -> one table of embeddings, in parts that survive any interruption: what `hear-mwmae embed` runs."""
