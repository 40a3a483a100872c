"""The environment of the programs that tests start."""

import os

# what a launcher, or a study in this process, puts there; the number of threads decides the last bits of what is trained
PASSING = ("OMPI_", "PMI", "PRTE_", "OPENHPO_", "OMP_", "MKL_", "OPENBLAS_")
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith(PASSING)}

MPI_ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
}
