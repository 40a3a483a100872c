"""The environment of the tests, and of the programs that they start."""

import os

# One thread each, before torch is imported: tests run side by side, and of several threads those that have no core make the
# others wait. It decides the last bits of what is trained, too.
THREADS = {"OMP_NUM_THREADS": "1"}
os.environ.update(THREADS)

# what a launcher, or a study in this process, puts there
PASSING = ("OMPI_", "PMI", "PRTE_", "OPENHPO_", "OMP_", "MKL_", "OPENBLAS_")
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith(PASSING)} | THREADS

MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
