#!/usr/bin/env bash
# A SLURM cluster of one node, this machine, for the tests; needs root and Debian's packages:
#
#   apt-get install --no-install-recommends slurm-wlm munge
#   tests/slurm/start.sh FOLDER     start it, with its files in FOLDER; prints what to export
#   tests/slurm/stop.sh FOLDER      end it
#
# It touches neither /etc nor a cluster that runs here already: own ports, own key, own folders.
set -euo pipefail

folder=${1:?usage: start.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)

fail() { echo "start.sh: $*" >&2; exit 1; }
export PATH="$PATH:/usr/sbin:/sbin"
for program in munged mungekey slurmctld slurmd sbatch; do
    command -v "$program" > /dev/null ||
        fail "$program is missing: apt-get install --no-install-recommends slurm-wlm munge"
done
[ "$(id -u)" = 0 ] || fail "slurmd starts jobs for others: run this as root"

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
[ ! -e "$folder/slurm.conf" ] || fail "$folder holds a cluster: end it with stop.sh $folder"
mkdir -p "$folder"/{munge,state,spool,log}
# munged wants folders that nobody else may write to.
chmod 755 "$folder"
chmod 700 "$folder/munge"

# A munged of our own; --force because the folder may lie below one that all may write to.
mungekey --create --keyfile="$folder/munge/key"
munged --force --socket="$folder/munge.socket" --key-file="$folder/munge/key" \
    --pid-file="$folder/munge/pid" --log-file="$folder/log/munged.log" --seed-file="$folder/munge/seed"

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
node=$(hostname -s)
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 * 9 / 10))
cat > "$folder/slurm.conf" << EOF
ClusterName=esort
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
# Plain processes: containers often have no cgroups that could be written to.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
ReturnToService=2
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
EOF

export SLURM_CONF="$folder/slurm.conf"
trap '"$here/stop.sh" "$folder"; cat "$folder"/log/*.log >&2' ERR
slurmctld -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 60); do
    if [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 1
done
trap - ERR
"$here/stop.sh" "$folder"
cat "$folder"/log/*.log >&2
fail "the node did not come up within a minute; see the lines above"
