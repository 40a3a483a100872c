"""`python -m openhpo`, which is what `--ranks` starts under MPI."""

from openhpo.cli.main import main

main()
