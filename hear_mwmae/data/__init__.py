"""Audio as it is found: files, manifests, shards."""
