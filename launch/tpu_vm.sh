#!/usr/bin/env bash
# A TPU VM from its creation to the results; launch/README.md explains the variables.
#
#   NAME=… ZONE=… TYPE=… RUNTIME=… launch/tpu_vm.sh create
#   NAME=… ZONE=… launch/tpu_vm.sh setup | run FLAGS… | logs | stop | fetch | delete
#
# DRY_RUN=1 prints the commands and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
  echo "launch/tpu_vm.sh: $1" >&2
  exit 2
}

need() {
  local name
  for name in "$@"; do
    [ -n "${!name:-}" ] || fail "the variable $name is not set (launch/README.md lists them)"
  done
}

execute() {
  if [ "${DRY_RUN:-0}" = 1 ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() {
  execute gcloud compute tpus tpu-vm "$@" --zone="$ZONE" ${PROJECT:+--project="$PROJECT"}
}

everywhere() {
  tpu ssh "$NAME" --worker=all --command="$1"
}

create() {
  need NAME ZONE TYPE RUNTIME
  tpu create "$NAME" --accelerator-type="$TYPE" --version="$RUNTIME" ${SPOT:+--spot}
}

setup() {
  need NAME ZONE
  local archive=build/headjax.tar.gz
  execute mkdir -p build
  execute git archive --format=tar.gz --output="$archive" HEAD
  tpu scp "$archive" "$NAME:headjax.tar.gz" --worker=all
  everywhere 'set -e; mkdir -p headjax && tar -xzf headjax.tar.gz -C headjax
python3 -m pip install --user --quiet uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ~/venv
~/.local/bin/uv pip install --quiet --python ~/venv/bin/python -e "./headjax[tpu]"'
}

run() {
  need NAME ZONE
  [ $# -gt 0 ] || fail "run needs the flags of headjax.main, for example --config=g3diff"
  local flags
  flags=$(printf '%q ' "$@")
  everywhere "cd headjax
nohup ~/venv/bin/python -m headjax.main ${flags}>> run.log 2>&1 < /dev/null &
echo \$! > run.pid"
}

case "${1:-}" in
  create) create ;;
  setup) setup ;;
  run) shift && run "$@" ;;
  logs) need NAME ZONE && everywhere 'tail -n 50 headjax/run.log' ;;
  stop) need NAME ZONE && everywhere 'kill -TERM "$(cat headjax/run.pid)"' ;;
  fetch) need NAME ZONE && tpu scp --recurse "$NAME:headjax/runs" . --worker=0 ;;
  delete) need NAME ZONE && tpu delete "$NAME" --quiet ;;
  *) fail "say what to do: create, setup, run, logs, stop, fetch or delete" ;;
esac
