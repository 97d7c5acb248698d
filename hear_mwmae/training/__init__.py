"""Pretraining: recipes, optimisers, the loop, checkpoints, progress, and publishing a run."""
