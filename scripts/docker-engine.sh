#!/bin/bash
# A Docker engine of the project's own, for machines without one: `eval "$(scripts/docker-engine.sh start)"` and, afterwards,
# `scripts/docker-engine.sh stop`. A running engine is used as it is. Ours keeps its data under build/docker and runs in a
# network namespace of its own, so that its rules never meet the machine's; one veth pair leads out.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$PWD/${BUILD:-build}/docker
ns=outrigger-docker
inside=10.213.77.2 outside=10.213.77.1

up() { DOCKER_HOST=unix://$dir/docker.sock docker version >/dev/null 2>&1; }

start() {
    if docker version >/dev/null 2>&1; then
        return
    fi
    echo "export DOCKER_HOST=unix://$dir/docker.sock"
    up && return
    [ "$(id -u)" = 0 ] || { echo "docker-engine.sh: starting an engine needs root" >&2; exit 1; }
    command -v dockerd >/dev/null || { echo "docker-engine.sh: install docker.io first" >&2; exit 1; }
    mkdir -p "$dir"
    if ! ip netns list | grep -qw "$ns"; then
        ip netns add "$ns"
        ip link add outrigger-d0 type veth peer name eth0 netns "$ns"
        ip addr add "$outside/30" dev outrigger-d0
        ip link set outrigger-d0 up
        ip -n "$ns" link set lo up
        ip -n "$ns" addr add "$inside/30" dev eth0
        ip -n "$ns" link set eth0 up
        ip -n "$ns" route add default via "$outside"
        iptables -t nat -A POSTROUTING -s "$inside/32" ! -o outrigger-d0 -j MASQUERADE
        cat /proc/sys/net/ipv4/ip_forward >"$dir/ip_forward"
        echo 1 >/proc/sys/net/ipv4/ip_forward
    fi
    # nsenter, not ip netns exec: that one hides /sys/fs/cgroup.
    setsid nsenter --net="/run/netns/$ns" dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" \
        --host "unix://$dir/docker.sock" >"$dir/log" 2>&1 </dev/null &
    for _ in $(seq 300); do
        up && return
        kill -0 $! 2>/dev/null || break
        sleep 0.1
    done
    tail -5 "$dir/log" >&2
    echo "docker-engine.sh: dockerd did not come up; its log is $dir/log" >&2
    exit 1
}

stop() {
    if [ -f "$dir/pid" ]; then
        pid=$(cat "$dir/pid")
        kill "$pid" 2>/dev/null || true
        tail --pid="$pid" -f /dev/null
    fi
    if ip netns list | grep -qw "$ns"; then
        iptables -t nat -D POSTROUTING -s "$inside/32" ! -o outrigger-d0 -j MASQUERADE || true
        ip link del outrigger-d0 2>/dev/null || true
        ip netns del "$ns"
        [ ! -f "$dir/ip_forward" ] || cat "$dir/ip_forward" >/proc/sys/net/ipv4/ip_forward
    fi
}

case ${1:-} in
start | stop) "$1" ;;
*) echo "usage: docker-engine.sh start|stop" >&2; exit 2 ;;
esac
