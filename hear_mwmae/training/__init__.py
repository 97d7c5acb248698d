"""Pretraining: recipes, optimisers, the loop, checkpoints and progress."""
