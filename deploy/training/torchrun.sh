#!/bin/bash
# Train a recipe on several hosts with torchrun. Start this on every host, with the same values:
#   HOSTS=2 FIRST=node-1:29500 deploy/training/torchrun.sh /shared/shop/recipe.yaml [options of `chatwright run`]
# HOSTS      how many hosts take part
# FIRST      name and a free port of one of them, reached from all
# PROCESSES  processes on each host [gpu: one for each of its GPUs]
# RESTARTS   how often to go on from the last checkpoint when a process dies [3]
set -euo pipefail
: "${HOSTS:?how many hosts take part}" "${FIRST:?name and port of one host, as node-1:29500}"

for ((again = 0; ; again++)); do
  status=0
  # A new meeting place for every start: within one, ranks could find the addresses of dead ones.
  torchrun --nnodes "$HOSTS" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts 0 \
    --rdzv-backend c10d --rdzv-endpoint "$FIRST" --rdzv-id "chatwright-$again" \
    -m chatwright run "$@" || status=$?
  if [ "$status" -eq 0 ] || [ "$again" -ge "${RESTARTS:-3}" ]; then
    exit "$status"
  fi
  echo "a process died; going on from the last checkpoint ($((again + 1)) of ${RESTARTS:-3})" >&2
done
