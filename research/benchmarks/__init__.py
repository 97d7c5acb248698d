"""Speed of embedding, of a table from files and of pretraining."""
