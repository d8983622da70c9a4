#!/bin/sh
# A job as N shards on this machine, each in a process of its own, started by GNU parallel; then one run.
#
#   examples/shell/parallel.sh JOB OUT N [OPTION...]       options of `batchrunner run`
#
# `--sshlogin A,B` beside `-j` starts the shards on other machines that see the same folder.
set -u
job=$1 out=$2 shards=$3
shift 3
here=$(dirname "$0")

if grep -qs '"whole": true' "$out/shards/merged.json"; then # the shards are one run, which goes on as a whole
  batchrunner merge "$out" && exec batchrunner run "$job" --out "$out" "$@"
  exit
fi
if seq 0 $((shards - 1)) | parallel --will-cite -j "$shards" "$here/shard.sh" "$job" "$out" "{}/$shards" "$@"; then
  batchrunner merge "$out"
else
  echo "parallel.sh: not every item is done: \`batchrunner status $out\` says why; the same command goes on," \
    "\`batchrunner merge $out\` joins what there is, and then the same command runs the rest as a whole" >&2
  exit 1
fi
