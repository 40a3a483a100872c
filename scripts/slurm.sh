#!/bin/bash
# A study on four nodes with four accelerators each, under Slurm: copy, adapt, sbatch slurm.sh
#SBATCH --job-name=openhpo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4        # one rank an accelerator
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=06:00:00
#SBATCH --output=openhpo-%j.log

set -euo pipefail

# module load openmpi python        # the MPI that mpi4py was installed with
source "${OPENHPO_VENV:-.venv}/bin/activate"

# srun has its own idea of cpus per task since Slurm 22.05
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
STUDY="${STUDY:-runs/job-$SLURM_JOB_ID}"

# what every rank sees: MPI, devices, threads, file system
srun openhpo doctor --study "$STUDY"

# one study file in $STUDY, written by rank 0; `openhpo status $STUDY` works from the login node meanwhile
srun openhpo run random "${APP:-apps/digits_mlp.py}" --trials "${TRIALS:-1000}" --study "$STUDY"
