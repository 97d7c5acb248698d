"""`hear-mwmae embed`: many audio files -> one table of embeddings, made of parts that are files."""
