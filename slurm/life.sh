#!/usr/bin/env bash
# One life of a Slurm job: starts a rank per task, then decides whether the job goes on. pretrain.sbatch and finetune.sbatch call it.
#   life.sh PACKAGE [overrides]
# PYTHON (default: python) is the interpreter; MAX_CRASHES (default: 3) bounds the requeues after crashes.
set -uo pipefail

if [ "$1" = --rank ]; then # --rank DIRECTORY COMMAND...: note how the rank ends, since srun mixes the exit codes of its tasks
  codes=$2
  shift 2
  trap : USR1 USR2 TERM # what they mean is the run's to say; a shell without a trap would die of them
  "$@"
  code=$?
  echo $code >"$codes/$SLURM_PROCID"
  exit $code
fi

package=$1
shift
# The default place is the same in each life of a job.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
run_dir=runs/slurm-${job:-$SLURM_JOB_ID} given=""
for argument in "$@"; do
  case $argument in run_dir=*) run_dir=${argument#run_dir=} given=yes ;; esac
done
[ -n "$given" ] || set -- "run_dir=$run_dir" resume=auto "$@"

codes=$run_dir/.exit-codes crashes=$run_dir/.crashes
mkdir -p "$run_dir" && rm -rf "$codes" "$run_dir/PREEMPTED" && mkdir "$codes" || exit 1

echo "== job ${job:-$SLURM_JOB_ID}, life $((${SLURM_RESTART_COUNT:-0} + 1)), on $SLURM_JOB_NODELIST, $(date -Is): $package in $run_dir"
# The job's shape is the run's, unless an override says otherwise.
srun --kill-on-bad-exit=1 bash "$0" --rank "$codes" "${PYTHON:-python}" -u -m "$package" \
  "trainer.devices=${SLURM_NTASKS_PER_NODE:-1}" "trainer.num_nodes=$SLURM_JOB_NUM_NODES" "$@"
result=$?

ended_with() { cat "$codes"/* 2>/dev/null | grep -qxE "$1"; }
only_signalled() { ended_with '138|140|143' && ! cat "$codes"/* | grep -qvxE '138|140|143'; }

again() {
  echo "== $1: requeued"
  scontrol requeue "$SLURM_JOB_ID" || exit 1
  sleep 600 # Slurm ends this script
}

if [ $result -eq 0 ]; then
  exit 0
elif [ -e "$run_dir/PREEMPTED" ]; then
  again "step $(cat "$run_dir/PREEMPTED") is saved"
elif ended_with '2|3|130'; then # a mistake to mend, a full disk, a number that is none, Ctrl-C: it would end the same
  echo "== not requeued: it would fail again"
elif only_signalled; then # before training took the signals over
  again "stopped before training"
else
  echo "$(date -Is) srun $result, ranks $(cat "$codes"/* 2>/dev/null | tr '\n' ' ')" >>"$crashes"
  count=$(wc -l <"$crashes")
  if [ "$count" -le "${MAX_CRASHES:-3}" ]; then again "crash $count of at most ${MAX_CRASHES:-3}"; fi
  echo "== not requeued: crashed $count times, see $crashes"
fi
exit $result
