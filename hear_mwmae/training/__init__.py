"""Pretraining: gather audio, turn it into features, train a masked autoencoder, probe what it has
learned.
"""
