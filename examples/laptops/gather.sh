#!/bin/sh
# Bring the shards that ran on another machine here, then make one run of all of them.
#
#   on each machine:   batchrunner run JOB --out OUT --shard I/N
#   here, at the end:  examples/laptops/gather.sh OTHER:OUT OUT
#
# Both machines need the same job file and the same source. A shard may run on one of them only.
set -eu
from=$1 out=$2
mkdir -p "$out/shards"
rsync -a --ignore-existing "$from/shards/" "$out/shards/" # what is here already is never replaced
batchrunner merge "$out"
