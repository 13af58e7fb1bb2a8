#!/usr/bin/env bash
# Submits a pretraining and finetunings that start once it is done:
#   slurm/pretrain_then_finetune.sh objective=simclr -- task=digits mode=linear_probe -- task=digits mode=full
# Options of sbatch go into PRETRAIN_OPTIONS and FINETUNE_OPTIONS ("--nodes=2 --ntasks-per-node=4 --gpus-per-node=4"). Prints each job and its run directory.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
[ $# -gt 0 ] || { sed -n '2,4s/^# //p' "$0" >&2; exit 2; }
base=runs/$(date +%Y%m%d-%H%M%S)-$$

# All jobs run the code as it is now, whatever is edited while they wait.
# shellcheck disable=SC2046 # NAME=VALUE words
export $(PYTHONPATH="$here/..${PYTHONPATH:+:$PYTHONPATH}" "${PYTHON:-python}" -m pretraining.runs.snapshot)

arguments=() first="" number=0
submit() {
  if [ -z "$first" ]; then
    # shellcheck disable=SC2086 # options are words
    first=$(sbatch --parsable ${PRETRAIN_OPTIONS:-} "$PRETRAINING_SNAPSHOT/slurm/pretrain.sbatch" "run_dir=$base-pretrain" "${arguments[@]}")
    echo "$first $base-pretrain"
  else
    number=$((number + 1))
    local job place=$base-finetune-$number
    # shellcheck disable=SC2086
    job=$(sbatch --parsable --dependency="afterok:$first" --kill-on-invalid-dep=yes ${FINETUNE_OPTIONS:-} \
      "$PRETRAINING_SNAPSHOT/slurm/finetune.sbatch" "handoff=$base-pretrain/handoff/last" "run_dir=$place" "${arguments[@]}")
    echo "$job $place"
  fi
  arguments=()
}

for argument in "$@"; do
  if [ "$argument" = -- ]; then submit; else arguments+=("$argument"); fi
done
submit
