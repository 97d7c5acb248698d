"""`hear-mwmae embed`: many audio files -> one table of embeddings, in parts that survive any
interruption.
"""
