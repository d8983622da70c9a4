#!/bin/bash
# One task of an array is one shard. `submit.sh` beside this file submits the array and then the merge.
#
#   sbatch --array=0-3 examples/slurm/array.sh JOB OUT 4 [OPTION...]
#
# Each task's directory has a ledger: whatever ends a task, the same task started again goes on where it was.
#SBATCH --job-name=batchrunner
#SBATCH --output=%x-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=1G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# --requeue: lost nodes and preemptions start the task again. --signal: two minutes before the time limit the run ends
# in order, and the task is put back into the queue.
set -u
job=$1 out=$2 shards=$3
shift 3

batchrunner run "$job" --out "$out" --shard "$SLURM_ARRAY_TASK_ID/$shards" --quiet "$@" &
run=$!
again=no
trap 'again=yes; kill -TERM "$run"' USR1
trap 'kill -TERM "$run"' TERM INT # scancel: end in order, and stay ended
wait "$run"
status=$?
while kill -0 "$run" 2>/dev/null; do # a signal ended the waiting, not the run
  wait "$run"
  status=$?
done

if test "$status" -eq 3; then # paused: a quota, a window, an outage
  again=yes
fi
if test "$again" = yes && test "$status" -ne 0; then
  echo "shard $SLURM_ARRAY_TASK_ID/$shards ended with status $status: back into the queue"
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
