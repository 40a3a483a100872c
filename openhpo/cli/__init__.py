"""The command line. `openhpo --help` imports neither torch nor h5py nor SciPy."""
