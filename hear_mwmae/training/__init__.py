"""Pretraining: recipes, optimizers, the loop, checkpoints."""
