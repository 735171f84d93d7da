#!/usr/bin/env bash
# Start Slurm on this machine, run a command in it, shut it down: to try out sweeps without a cluster. Needs root, and
# on Debian: apt-get install slurm-wlm munge
#
#   sudo scripts/one_node_slurm.sh python -m seqrl.train -m hydra/launcher=slurm 'seed=0,1'
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: $0 command ..." >&2; exit 2; }
for program in munged slurmctld slurmd sinfo; do
    command -v "$program" >/dev/null || { echo "$0: $program is not installed: apt-get install slurm-wlm munge" >&2; exit 2; }
done
[ "$(id -u)" -eq 0 ] || { echo "$0: needs root" >&2; exit 2; }
pgrep -x slurmctld >/dev/null 2>&1 && { echo "$0: a Slurm runs on this machine already; end it first" >&2; exit 2; }

home=$(mktemp -d /tmp/one-node-slurm.XXXXXX)
node=$(hostname -s)
export SLURM_CONF=$home/slurm.conf
daemons=()
end() {
    kill "${daemons[@]}" 2>/dev/null || true
    wait "${daemons[@]}" 2>/dev/null || true
    rm -rf "$home"
}
trap end EXIT

cat >"$SLURM_CONF" <<CONF
ClusterName=one
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$home/munge.socket
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=2
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) RealMemory=$(awk '/MemTotal/ { print int($2 / 1100) }' /proc/meminfo)
PartitionName=main Nodes=ALL Default=YES State=UP
CONF
mkdir "$home/state" "$home/spool"
chmod 755 "$home"

dd if=/dev/urandom of="$home/munge.key" bs=1024 count=1 status=none
chmod 400 "$home/munge.key"
munged --foreground --force --key-file="$home/munge.key" --socket="$home/munge.socket" --pid-file="$home/munge.pid" \
    --log-file="$home/munge.log" --seed-file="$home/munge.seed" >"$home/munged.log" 2>&1 &
daemons+=($!)
slurmctld -D -f "$SLURM_CONF" >"$home/slurmctld.log" 2>&1 &
daemons+=($!)
slurmd -D -f "$SLURM_CONF" >"$home/slurmd.log" 2>&1 &
daemons+=($!)

for _ in $(seq 60); do
    [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] && break
    sleep 0.5
done
[ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ] || { tail -n 20 "$home"/*.log >&2; exit 1; }
"$@"
