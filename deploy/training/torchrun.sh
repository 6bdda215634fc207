#!/bin/bash
# Train a recipe on several hosts with torchrun. Start this on every host, with the same values:
#   HOSTS=2 FIRST=node-1:29500 deploy/training/torchrun.sh /shared/shop/recipe.yaml [options of `chatwright run`]
# HOSTS      how many hosts take part
# FIRST      name and a free port of one of them, reached from all
# PROCESSES  processes on each host [gpu: one for each of its GPUs]
# RESTARTS   how often to go on from the last checkpoint when a process dies [3]
# SAVING     seconds that a step and a checkpoint may take after SIGTERM [300]
set -euo pipefail
: "${HOSTS:?how many hosts take part}" "${FIRST:?name and port of one host, as node-1:29500}"

asked=
child=
# SIGTERM and Ctrl-C: every rank saves and ends. torchrun tells no status of its own (it is 1), so we do.
trap 'asked=143; [ -z "$child" ] || kill -TERM "$child"' TERM
trap 'asked=130; [ -z "$child" ] || kill -TERM "$child"' INT

for ((again = 0; ; again++)); do
  # A new meeting place for every start: within one, ranks could find the addresses of dead ones.
  torchrun --nnodes "$HOSTS" --nproc-per-node "${PROCESSES:-gpu}" --max-restarts 0 \
    --shutdown-timeout "${SAVING:-300}" \
    --rdzv-backend c10d --rdzv-endpoint "$FIRST" --rdzv-id "chatwright-$again" \
    -m chatwright run "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends `wait` before the child
    status=0
    wait "$child" || status=$?
  done
  if [ -n "$asked" ]; then exit "$asked"; fi
  if [ "$status" -eq 0 ] || [ "$again" -ge "${RESTARTS:-3}" ]; then exit "$status"; fi
  echo "a process died; going on from the last checkpoint ($((again + 1)) of ${RESTARTS:-3})" >&2
done
