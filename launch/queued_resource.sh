#!/usr/bin/env bash
# TPU VMs through Google Cloud's queue: asked for now, there when there is room.
#
#   NAME=… ZONE=… TYPE=… RUNTIME=… launch/queued_resource.sh create [FLAGS…, with PLAN=1]
#   NAME=… ZONE=… launch/queued_resource.sh status       the request's state, in a word
#   NAME=… ZONE=… launch/queued_resource.sh wait         until ACTIVE (exit 0), or until it cannot be (1)
#   NAME=… ZONE=… TYPE=… RUNTIME=… launch/queued_resource.sh recreate    after a preemption
#   NAME=… ZONE=… launch/queued_resource.sh delete       the request and its machines
#
# States: WAITING_FOR_RESOURCES, PROVISIONING, ACTIVE; SUSPENDED after a preemption, FAILED.
# Once ACTIVE, launch/tpu_vm.sh sets up and runs with the same NAME, ZONE and SLICES.
# Optional: SPOT=1 or RESERVED=1, VALID_UNTIL=6h (gives up after), SLICES=N (several slices, machines
# NAME-0 to NAME-(N-1)), REQUEST (the request's name, NAME-request), PROJECT, INTERVAL (seconds
# between two looks, 60), PLAN=1, DRY_RUN=1 (prints the commands, runs none).
set -euo pipefail
cd "$(dirname "$0")/.."
SCRIPT=launch/queued_resource.sh
. launch/common.sh

queue() {
  local action="$1"
  shift
  execute gcloud compute tpus queued-resources "$action" "$REQUEST" "$@" --zone="$ZONE" \
    ${PROJECT:+--project="$PROJECT"}
}

state() {
  queue describe --format='value(state.state)'
}

create() {
  plan "$(tpu_topology "$TYPE")" "$@"
  request
}

request() {
  local nodes=(--node-id="$NAME")
  is_set "${SPOT:-}" || SPOT=
  is_set "${RESERVED:-}" || RESERVED=
  [ -z "$SPOT" ] || [ -z "$RESERVED" ] || fail "SPOT and RESERVED exclude each other"
  if [ "${SLICES:-1}" != 1 ]; then
    nodes=(--node-count="$SLICES" --node-prefix="$NAME")
  fi
  queue create --accelerator-type="$TYPE" --runtime-version="$RUNTIME" "${nodes[@]}" \
    ${SPOT:+--spot} ${RESERVED:+--reserved} ${VALID_UNTIL:+--valid-until-duration="$VALID_UNTIL"}
}

# Looks until the state is a last one; tells every change.
wait_for_it() {
  local now before=
  if is_set "${DRY_RUN:-}"; then
    state
    return
  fi
  while true; do
    now=$(state)
    [ "$now" = "$before" ] || echo "$(date '+%H:%M:%S') $REQUEST: $now"
    before="$now"
    case "$now" in
      ACTIVE) return ;;
      SUSPENDING | SUSPENDED)
        echo "$SCRIPT: $REQUEST was preempted; 'recreate' asks for it again" >&2
        exit 1 ;;
      FAILED | DELETING)
        echo "$SCRIPT: $REQUEST will not become ACTIVE: it is $now" >&2
        exit 1 ;;
    esac
    sleep "${INTERVAL:-60}"
  done
}

recreate() {
  local now=
  if is_set "${DRY_RUN:-}"; then
    state
  else
    now=$(state)
  fi
  case "$now" in
    '' | SUSPENDING | SUSPENDED | FAILED) ;;
    *) fail "$REQUEST is $now, neither SUSPENDED nor FAILED; 'delete' it first if that is meant" ;;
  esac
  queue delete --force --quiet
  request
}

answer_help "${1:-}"
action="$1"
shift
case "$action" in
  create | recreate) need NAME ZONE TYPE RUNTIME ;;
  status | wait | delete) need NAME ZONE ;;
  *) fail "there is no '$action'; there are create, status, wait, recreate and delete" ;;
esac
[ -z "${SLICES:-}" ] || need_number SLICES
REQUEST="${REQUEST:-$NAME-request}"
case "$action" in
  create) create "$@" ;;
  status) state ;;
  wait) wait_for_it ;;
  recreate) recreate ;;
  delete) queue delete --force --quiet ;;
esac
