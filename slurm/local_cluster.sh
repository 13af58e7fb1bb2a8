#!/usr/bin/env bash
# A Slurm cluster on this machine, for tests and for learning: munge, slurmctld and two virtual nodes with declared GPUs.
#
#   slurm/local_cluster.sh start     install Debian's packages where they are missing, write a configuration, start the daemons
#   slurm/local_cluster.sh status    say what runs; exit code 0 if all of it does
#   slurm/local_cluster.sh stop      end the jobs and what `start` started; `stop --purge` also removes the state directory
#
# Then: export SLURM_CONF=$(slurm/local_cluster.sh conf); sinfo; srun hostname; sbatch slurm/pretrain.sbatch ...
#
# LOCAL_CLUSTER_DIR (default: local-cluster in the system's temporary directory) holds all state. LOCAL_CLUSTER_NODES=2,
# LOCAL_CLUSTER_CPUS=2 and LOCAL_CLUSTER_GPUS=2 per node are declared, whatever the machine has. LOCAL_CLUSTER_PORT=16817 is the first of
# NODES + 1 ports. Root, without systemd or cgroups; everything listens on the loopback interface only. Outside of its directory it adds
# marked lines to /etc/hosts (the nodes' names), which `stop` takes out again.
set -euo pipefail

DIR=${LOCAL_CLUSTER_DIR:-${TMPDIR:-/tmp}/local-cluster}
NODES=${LOCAL_CLUSTER_NODES:-2}
CPUS=${LOCAL_CLUSTER_CPUS:-2}
GPUS=${LOCAL_CLUSTER_GPUS:-2}
PORT=${LOCAL_CLUSTER_PORT:-16817}
MARK="# local_cluster"
HOST=$(hostname -s)
export SLURM_CONF=$DIR/etc/slurm.conf

fail() {
  echo "local_cluster: $*" >&2
  exit 1
}

wait_for() { # wait_for SECONDS COMMAND...
  local ends=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $ends ] || return 1
    sleep 0.1
  done
}

# A pid file is believed only if that process still runs that program (Debian calls it NAME or NAME-wlm): pids are used again.
pid_of() { # pid_of PIDFILE PROGRAM
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  case "$(readlink "/proc/$pid/exe" 2>/dev/null)" in
    */"$2" | */"$2"-wlm) echo "$pid" ;;
    *) return 1 ;;
  esac
}

install_packages() {
  local missing=() package
  for package in slurm-wlm munge; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "Slurm is not installed, and there is no apt-get to install it with"
  # The packages would start daemons of their own.
  local policy=/usr/sbin/policy-rc.d made=""
  if [ ! -e $policy ]; then
    made=yes
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } \
    >"$DIR/log/apt.log" 2>&1 || { [ -z "$made" ] || rm -f $policy; tail -n 3 "$DIR/log/apt.log" >&2; fail "could not install ${missing[*]}"; }
  [ -z "$made" ] || rm -f $policy
}

write_gpus() {
  : >"$DIR/etc/gres.conf"
  [ "$GPUS" -gt 0 ] || return 0
  # slurmd wants a character device for each GPU: a link to /dev/null is one.
  mkdir -p "$DIR/dev"
  local number files="$DIR/dev/nvidia0"
  for ((number = 0; number < GPUS; number++)); do ln -sfn /dev/null "$DIR/dev/nvidia$number"; done
  [ "$GPUS" -eq 1 ] || files="$DIR/dev/nvidia[0-$((GPUS - 1))]"
  for ((number = 1; number <= NODES; number++)); do echo "NodeName=n$number Name=gpu File=$files"; done >"$DIR/etc/gres.conf"
}

write_configuration() {
  local names="n[1-$NODES]" ports="[$((PORT + 1))-$((PORT + NODES))]" gres="" types=""
  [ "$NODES" -gt 1 ] || { names=n1; ports=$((PORT + 1)); }
  [ "$GPUS" -eq 0 ] || { gres="Gres=gpu:$GPUS"; types="GresTypes=gpu"; }
  # cred_expire is also how long a requeued job waits; the default of 120 s would make every test take minutes.
  cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd.%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd.%n.log
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=3600
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=20
$types
NodeName=$names NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$ports CPUs=$CPUS RealMemory=8000 $gres State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10
CONF
}

# The names of nodes must resolve: the first of a job's is where its ranks meet.
name_nodes() {
  local number
  for ((number = 1; number <= NODES; number++)); do
    getent hosts "n$number" >/dev/null || echo "127.0.0.1 n$number $MARK" >>/etc/hosts
  done
}

start_munge() {
  local munge=$DIR/munge
  ! pid_of "$munge/pid" munged >/dev/null || return 0
  [ -s "$munge/key" ] || (umask 077 && head -c 1024 /dev/urandom >"$munge/key")
  rm -f "$munge"/{pid,socket,socket.lock}
  setsid munged --key-file="$munge/key" --socket="$munge/socket" --pid-file="$munge/pid" --log-file="$DIR/log/munged.log" \
    --seed-file="$munge/seed" --num-threads=2 --force </dev/null >/dev/null 2>>"$DIR/log/munged.err"
  wait_for 10 munge -n -S "$munge/socket" || fail "munged does not answer: see $DIR/log/munged.log"
}

start_node() { # start_node NAME
  ! pid_of "$DIR/run/slurmd.$1.pid" slurmd >/dev/null || return 0
  mkdir -p "$DIR/spool/$1"
  rm -f "$DIR/run/slurmd.$1.pid"
  setsid slurmd -N "$1" -f "$SLURM_CONF" </dev/null >/dev/null 2>>"$DIR/log/slurmd.err"
}

all_nodes_ready() {
  [ "$(sinfo -h -p main -N -o %t | grep -cE '^(idle|mix|alloc)$')" = "$NODES" ]
}

start() {
  [ "$(id -u)" = 0 ] || fail "must run as root"
  mkdir -p "$DIR"/{etc,run,log,state,spool,munge}
  chmod 700 "$DIR/state"
  install_packages
  # What runs keeps its configuration: another one needs a stop first.
  if ! pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null; then
    write_gpus
    write_configuration
  fi
  name_nodes
  start_munge
  if ! pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null; then
    rm -f "$DIR/run/slurmctld.pid"
    setsid slurmctld -i -f "$SLURM_CONF" </dev/null >/dev/null 2>>"$DIR/log/slurmctld.err"
  fi
  local number
  for ((number = 1; number <= NODES; number++)); do start_node "n$number"; done
  wait_for 40 all_nodes_ready || { sinfo -N -l >&2 || true; fail "the nodes do not come up: see $DIR/log"; }
  echo "export SLURM_CONF=$SLURM_CONF"
}

status() {
  local number missing=0 pid
  show() { # show PIDFILE PROGRAM LABEL
    if pid=$(pid_of "$1" "$2"); then echo "$3: pid $pid"; else echo "$3: not running"; missing=1; fi
  }
  show "$DIR/munge/pid" munged munged
  show "$DIR/run/slurmctld.pid" slurmctld slurmctld
  for ((number = 1; number <= NODES; number++)); do show "$DIR/run/slurmd.n$number.pid" slurmd "slurmd n$number"; done
  [ $missing = 1 ] || sinfo -N -p main -o '%N %t cpus=%c gres=%G'
  return $missing
}

end_process() { # end_process PIDFILE PROGRAM
  local pid
  pid=$(pid_of "$1" "$2") || { rm -f "$1"; return 0; }
  kill -TERM "$pid"
  wait_for 15 test ! -d "/proc/$pid" || kill -KILL "$pid"
  rm -f "$1"
}

no_jobs() {
  [ -z "$(timeout 5 squeue -h -t running,completing,suspended)" ]
}

# Steps outlive their slurmd: those of this cluster, and no other, have its configuration in their environment.
end_steps() {
  local entry
  for entry in /proc/[0-9]*; do
    case "$(readlink "$entry/exe" 2>/dev/null)" in */slurmstepd | */slurmstepd-wlm) ;; *) continue ;; esac
    if tr '\0' '\n' 2>/dev/null <"$entry/environ" | grep -qxF "SLURM_CONF=$SLURM_CONF"; then
      kill -KILL "${entry#/proc/}" 2>/dev/null || true
    fi
  done
}

stop() {
  if pid_of "$DIR/run/slurmctld.pid" slurmctld >/dev/null && pid_of "$DIR/munge/pid" munged >/dev/null; then
    timeout 10 scancel --me 2>/dev/null || true
    timeout 10 scancel --full --signal=KILL --me 2>/dev/null || true
    wait_for 15 no_jobs || true
  fi
  local file
  for file in "$DIR"/run/slurmd.*.pid; do [ ! -e "$file" ] || end_process "$file" slurmd; done
  end_steps
  end_process "$DIR/run/slurmctld.pid" slurmctld
  end_process "$DIR/munge/pid" munged
  # Not `sed -i`: in a container /etc/hosts is mounted, and cannot be replaced.
  if grep -q "$MARK\$" /etc/hosts; then
    local rest
    rest=$(grep -v "$MARK\$" /etc/hosts)
    printf '%s\n' "$rest" >/etc/hosts
  fi
  [ "${1:-}" != --purge ] || rm -rf "$DIR"
}

case "${1:-}" in
  start) start ;;
  stop) stop "${2:-}" ;;
  status) status ;;
  conf) echo "$SLURM_CONF" ;;
  node) start_node "${2:?which node}" ;;
  *) fail "usage: $0 start | status | stop [--purge] | conf | node NAME (start a node that died again)" ;;
esac
