"""`python -m hear_mwmae.cli`."""

from . import main

main()
