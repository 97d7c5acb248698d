"""HEAR's evaluation kit, unmodified, on the tasks of the paper: `python -m eval --help`, in a
checkout.
"""
