#!/bin/bash
# PID 1 of one node's box: own mount, network, pid, uts and ipc namespaces. Everything in it ends with this process.
#
# Environment: NODE, FOLDER (the node's own folder), ADDRESS (10.77.0.11), PODS (10.88.1), ROUTES
# ("10.88.2.0/24=10.77.0.12 …": the other nodes' pods), PATH with the cluster's programs first.
# In FOLDER: components/NAME (what to run), control (a fifo: "start NAME", "stop NAME"), pids/NAME, logs/NAME.log,
# ready (made when the box can run components).

# Whoever started this box records it before it lets it go on; if that process dies first, so does the box.
read -r go && [ "$go" = go ] || exit 1
exec </dev/null
set -e
rm -rf "$FOLDER/pids"
mkdir -p "$FOLDER"/{kubelet,containerd,pods,containers,cni-cache,models,pids,logs}

mount -n --make-rshared /
mount -n -t tmpfs -o mode=0755 tmpfs /run
# The node's own host memory: the pool of weights lies there.
mount -n -t tmpfs -o mode=1777 tmpfs /dev/shm
mkdir -p /run/lock
mount -n --bind "$FOLDER/kubelet" /var/lib/kubelet
mount -n --bind "$FOLDER/containerd" /var/lib/containerd
mount -n --bind "$FOLDER/cni-cache" /var/lib/cni
mount -n --bind "$FOLDER/pods" /var/log/pods
mount -n --bind "$FOLDER/containers" /var/log/containers
mount -n --bind "$FOLDER/models" /mnt/models

hostname "$NODE"
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
ip link add cni0 type bridge
ip addr add "$PODS.1/24" dev cni0
ip link set cni0 up
ip link set eth0 up
ip addr add "$ADDRESS/24" dev eth0
# kubelet and kube-proxy want a default route; the machine behind the bridge forwards nothing.
ip route add default via 10.77.0.1 dev eth0
for route in $ROUTES; do ip route add "${route%=*}" via "${route#*=}" dev eth0; done

rm -f "$FOLDER/control"
mkfifo -m 600 "$FOLDER/control"
exec 3<>"$FOLDER/control"
set +e

declare -A running # pid of each component that should run
run() {
  "$FOLDER/components/$1" >>"$FOLDER/logs/$1.log" 2>&1 3>&- &
  running[$1]=$!
  echo $! >"$FOLDER/pids/$1"
}
start() {
  [ -n "${running[$1]}" ] || run "$1"
}
stop() {
  [ -n "${running[$1]}" ] || return
  kill -KILL "${running[$1]}" 2>/dev/null
  wait "${running[$1]}" 2>/dev/null
  unset "running[$1]"
  rm -f "$FOLDER/pids/$1"
}
# A component that died by itself comes back, as systemd would do it.
revive() {
  local name code
  for name in "${!running[@]}"; do
    kill -0 "${running[$name]}" 2>/dev/null && continue
    wait "${running[$name]}"
    code=$?
    echo "$(date -Is) $name ended with $code, starting it again"
    run "$name"
  done
}

: >"$FOLDER/ready"
while :; do
  verb='' name=''
  read -r -t 1 -u 3 verb name
  case $verb in
    start | stop) "$verb" "$name" ;;
  esac
  revive
done
