#!/bin/bash
# A study on four nodes with four accelerators each, under PBS: copy, adapt, qsub pbs.sh
#PBS -N openhpo
#PBS -l select=4:ncpus=32:mpiprocs=4:ngpus=4
#PBS -l place=scatter
#PBS -l walltime=06:00:00
#PBS -j oe

set -euo pipefail
cd "$PBS_O_WORKDIR"

# module load openmpi python        # the MPI that mpi4py was installed with
source "${OPENHPO_VENV:-.venv}/bin/activate"

RANKS=$(wc -l < "$PBS_NODEFILE")     # one line a rank, by mpiprocs
STUDY="${STUDY:-runs/job-${PBS_JOBID%%.*}}"

# what every rank sees: MPI, devices, threads, file system
mpirun -n "$RANKS" openhpo doctor --study "$STUDY"

# one study file in $STUDY, written by rank 0; `openhpo status $STUDY` works from the login node meanwhile;
# ten minutes before the walltime the run stops in order, with status 0, and the next job goes on until the study is finished
mpirun -n "$RANKS" openhpo run random "${APP:-apps/digits_mlp.py}" --trials "${TRIALS:-1000}" --study "$STUDY" --time-limit 5h50m
openhpo status "$STUDY" --finished || qsub -v "STUDY=$STUDY" "${SCRIPT:-scripts/pbs.sh}"
