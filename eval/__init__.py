"""The HEAR benchmark's own kit, unmodified, over the tasks of the paper: `python -m eval --help`, in a checkout."""
