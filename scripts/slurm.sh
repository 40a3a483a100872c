#!/bin/bash
# A study on four nodes with four accelerators each, under Slurm: copy, adapt, sbatch slurm.sh
#SBATCH --job-name=openhpo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=4        # one rank an accelerator
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=06:00:00
#SBATCH --output=openhpo-%j.log
#SBATCH --open-mode=append         # it runs more than once
#SBATCH --requeue
#SBATCH --signal=USR1@300          # five minutes before the end; needed: one step, and the time to write the states

set -euo pipefail

# module load openmpi python        # the MPI that mpi4py was installed with
source "${OPENHPO_VENV:-.venv}/bin/activate"

# srun has its own idea of cpus per task since Slurm 22.05
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"
STUDY="${STUDY:-runs/job-$SLURM_JOB_ID}"

# what every rank sees: MPI, devices, threads, file system
srun openhpo doctor --study "$STUDY"

# one study file in $STUDY, written by rank 0; `openhpo status $STUDY` works from the login node meanwhile;
# a run that was stopped in order ends with status 0 too, and is queued again under the same number until the study is finished
srun openhpo run random "${APP:-apps/digits_mlp.py}" --trials "${TRIALS:-1000}" --study "$STUDY"
openhpo status "$STUDY" --finished || scontrol requeue "$SLURM_JOB_ID"
