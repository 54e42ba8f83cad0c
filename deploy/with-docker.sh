#!/usr/bin/env bash
# with-docker.sh CMD...: run CMD with a Docker daemon at hand.
#
# If a daemon answers (on DOCKER_HOST, or the default socket) it is used and
# left alone. Otherwise one is started, by systemd where that works, else by
# hand, and stopped when CMD ends.
set -euo pipefail

say() { printf '%s\n' "$*" >&2; }
answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

wait_for_docker() { # seconds
	local until=$((SECONDS + $1))
	until answers; do
		((SECONDS < until)) || return 1
		[[ -z ${daemon:-} ]] || kill -0 "$daemon" 2>/dev/null || return 1
		sleep 0.2
	done
}

daemon=
started_unit=
stop() {
	if [[ -n $started_unit ]]; then
		systemctl stop docker.service docker.socket >/dev/null 2>&1 || true
	fi
	if [[ -n $daemon ]] && kill -0 "$daemon" 2>/dev/null; then
		kill -TERM "$daemon"
		wait "$daemon" 2>/dev/null || true
		remove_bridges
	fi
}

# remove_bridges takes away the bridges that a stopped dockerd leaves behind.
remove_bridges() {
	local bridge
	for bridge in docker0 docker_gwbridge; do
		[[ " $bridges_before " == *" $bridge "* ]] || ip link delete "$bridge" 2>/dev/null || true
	done
}

if ! answers; then
	if [[ -n ${DOCKER_HOST:-} ]]; then
		say "with-docker: no Docker daemon answers on DOCKER_HOST=$DOCKER_HOST"
		exit 1
	fi
	if ((EUID != 0)); then
		say "with-docker: no Docker daemon answers, and starting one needs root"
		exit 1
	fi
	trap stop EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	if [[ -d /run/systemd/system ]] && systemctl start docker.service 2>/dev/null; then
		started_unit=1
	else
		command -v dockerd >/dev/null || { say "with-docker: dockerd is not installed; run deploy/setup.sh docker"; exit 1; }
		bridges_before=$(ip -o link show type bridge | awk -F'[ :@]+' '{printf "%s ", $2}')
		log=$(mktemp /tmp/gatehouse-dockerd.XXXXXX.log)
		setsid dockerd >"$log" 2>&1 </dev/null &
		daemon=$!
	fi
	if ! wait_for_docker 60; then
		say "with-docker: the Docker daemon did not come up:"
		[[ -z ${log:-} ]] || tail -n 20 "$log" >&2
		exit 1
	fi
	[[ -z ${log:-} ]] || rm -f "$log"
fi

status=0
"$@" || status=$?
exit "$status"
