#!/bin/sh
# Submit a job as an array of N shards, and its merge for when they have ended.
#
#   examples/slurm/submit.sh JOB OUT N [OPTION...]         options of `batchrunner run`
#
# OUT lies on a file system that all nodes see. `batchrunner status OUT` says how far all shards are.
set -eu
job=$1 out=$2 shards=$3
shift 3
here=$(dirname "$0")

if grep -qs '"whole": true' "$out/shards/merged.json"; then
  echo "submit.sh: the shards of $out are merged; \`batchrunner run $job --out $out\` sends the rest" >&2
  exit 1
fi
array=$(sbatch --parsable --array="0-$((shards - 1))" "$here/array.sh" "$job" "$out" "$shards" "$@")
merge=$(sbatch --parsable --job-name=batchrunner-merge --output=%x-%j.log --dependency="afterany:$array" \
  "$here/merge.sh" "$out")
echo "$array $merge"
