#!/bin/sh
# Join the shards into one run. What a cancelled task has left, `batchrunner run JOB --out OUT` sends afterwards.
#SBATCH --ntasks=1
#SBATCH --mem=1G
exec batchrunner merge "$1"
