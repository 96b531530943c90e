#!/usr/bin/env bash
# End the cluster that start.sh started in FOLDER, and its jobs; its logs stay.
set -uo pipefail

folder=${1:?usage: stop.sh FOLDER}
folder=$(cd "$folder" && pwd) || exit 0
export PATH="$PATH:/usr/sbin:/sbin" SLURM_CONF="$folder/slurm.conf"
if [ -f "$SLURM_CONF" ]; then
    # Jobs end before the daemons do: without these nobody would ever end them.
    timeout 20 scancel --user="$(id -un)" 2> /dev/null
    for _ in $(seq 60); do
        [ -n "$(timeout 20 squeue --noheader 2> /dev/null)" ] || break
        sleep 0.5
    done
fi
for pid in "$folder/slurmd.pid" "$folder/slurmctld.pid" "$folder/munge/pid"; do
    [ -s "$pid" ] || continue
    kill "$(cat "$pid")" 2> /dev/null
    for _ in $(seq 50); do
        [ -s "$pid" ] && kill -0 "$(cat "$pid")" 2> /dev/null || break
        sleep 0.1
    done
done
rm -f "$SLURM_CONF"
exit 0
