"""Quick measures of what a model has learned: linear probes on HEAR task folders, baselines, comparisons of models."""
