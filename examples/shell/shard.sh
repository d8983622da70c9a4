#!/bin/sh
# Run one shard to its end; started again where it was killed or paused: what it has is not sent again.
#
#   examples/shell/shard.sh JOB OUT I/N [OPTION...]        options of `batchrunner run`
set -u
job=$1 out=$2 shard=$3
shift 3
tries=0
while :; do
  batchrunner run "$job" --out "$out" --shard "$shard" --quiet "$@"
  status=$?
  tries=$((tries + 1))
  case $status in
    130 | 143) exit "$status" ;;             # somebody asked it to stop
    3) pause=${PAUSE_S:-60} ;;               # paused: a quota, a budget, a window, an outage
    *) test "$status" -gt 128 || exit "$status"
       pause=0 ;;                            # killed, such as by the kernel when memory ran out
  esac
  test "$tries" -lt "${TRIES:-10}" || exit "$status"
  sleep "$pause"
done
