"""Audio as it is found: files, manifests, shards."""

from .. import _until_merge  # noqa: F401
