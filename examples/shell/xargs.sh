#!/bin/sh
# A job as N shards on this machine, each in a process of its own, started by xargs; then one run.
#
#   examples/shell/xargs.sh JOB OUT N [OPTION...]          options of `batchrunner run`
set -u
job=$1 out=$2 shards=$3
shift 3
here=$(dirname "$0")

if grep -qs '"whole": true' "$out/shards/merged.json"; then # the shards are one run, which goes on as a whole
  batchrunner merge "$out" && exec batchrunner run "$job" --out "$out" "$@"
  exit
fi
if seq 0 $((shards - 1)) | xargs -P "$shards" -I{} "$here/shard.sh" "$job" "$out" "{}/$shards" "$@"; then
  batchrunner merge "$out"
else
  echo "xargs.sh: not every item is done: \`batchrunner status $out\` says why; the same command goes on," \
    "\`batchrunner merge $out\` joins what there is, and then the same command runs the rest as a whole" >&2
  exit 1
fi
