#!/usr/bin/env bash
# setup.sh [build|docker|test|demo|bench|generate]...: what this machine needs.
#
# Checks root, kernel and Go, and installs the Debian packages that are
# missing, and only those. With everything there it takes a fraction of a
# second and changes nothing. Every missing thing is named before it stops.
set -euo pipefail

parts=("$@")
((${#parts[@]})) || parts=(test demo)

missing=()
lack() { missing+=("$1"); }
say() { printf 'setup: %s\n' "$*" >&2; }

check_root() { ((EUID == 0)) || lack "root: run it with sudo"; }

check_kernel() {
	local release major minor
	release=$(uname -r)
	IFS=.- read -r major minor _ <<<"$release"
	if ((major < 6 || (major == 6 && minor < 6))); then
		lack "a kernel of 6.6 or later (this is $release): the eBPF programs attach by tcx links"
	fi
}

# check_features looks for what a kernel of the right age may be built
# without. It makes a throw-away namespace with a veth pair and a bridge in it.
check_features() {
	local symbols
	symbols=$(grep -owE 'tcx_link_attach|xsk_recvmsg' /proc/kallsyms 2>/dev/null || true)
	if [[ -r /proc/kallsyms ]]; then
		[[ $symbols == *tcx_link_attach* ]] || lack "tcx in the kernel (CONFIG_NET_XGRESS, CONFIG_BPF_SYSCALL)"
		[[ $symbols == *xsk_recvmsg* ]] || lack "AF_XDP in the kernel (CONFIG_XDP_SOCKETS)"
	fi
	unshare --net sh -c 'ip link add gh-probe0 type veth peer name gh-probe1 && ip link add gh-probe2 type bridge' 2>/dev/null ||
		lack "network namespaces with veth and bridge (CONFIG_NET_NS, CONFIG_VETH, CONFIG_BRIDGE)"
	unshare --net nft 'add table bridge gh_probe' 2>/dev/null ||
		lack "nftables in the bridge family (CONFIG_NF_TABLES_BRIDGE)"
	if ! grep -q ' /sys/fs/bpf bpf ' /proc/mounts; then
		mount -t bpf bpf /sys/fs/bpf 2>/dev/null || lack "the bpf file system on /sys/fs/bpf"
	fi
}

check_go() {
	local want have
	PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || { lack "Go on the PATH or in /usr/local/go"; return; }
	want=$(awk '$1 == "go" {print $2; exit}' "$(dirname "$0")/../go.mod")
	have=$(GOTOOLCHAIN=local go env GOVERSION)
	[[ $(printf '%s\n' "$want" "${have#go}" | sort -V | head -1) == "$want" ]] || lack "Go $want or later (this is ${have#go})"
}

# packages PART: "command package" lines.
packages() {
	case $1 in
	build) ;;
	docker) echo "dockerd docker.io
docker docker.io
iptables iptables" ;;
	test) packages docker; echo "ip iproute2
nft nftables
gcc gcc
/usr/include/stdlib.h libc6-dev
/etc/ssl/certs/ca-certificates.crt ca-certificates" ;;
	demo) packages docker; echo "ip iproute2
nft nftables
/etc/ssl/certs/ca-certificates.crt ca-certificates" ;;
	bench) echo "ip iproute2
iptables iptables
nft nftables
gcc gcc
/usr/include/stdlib.h libc6-dev
pkg-config pkgconf
/usr/include/dpdk/rte_acl.h libdpdk-dev
ndpiReader libndpi-bin
xz xz-utils
ethtool ethtool
/usr/share/doc/postgresql postgresql" ;;
	generate) echo "clang-14 clang-14
llvm-strip-14 llvm-14
/usr/include/bpf/bpf_helpers.h libbpf-dev
/usr/include/linux/bpf.h linux-libc-dev
git git" ;;
	*) say "unknown part \"$1\": one of build, docker, test, demo, bench, generate"; exit 2 ;;
	esac
}

# present THING: a command on the PATH, or a file.
present() {
	[[ $1 == /* ]] && { [[ -e $1 ]]; return; }
	command -v "$1" >/dev/null
}

install_packages() {
	local part thing package want=() list
	for part in "${parts[@]}"; do
		list=$(packages "$part")
		while read -r thing package; do
			[[ -n $thing ]] || continue
			present "$thing" || want+=("$package")
		done <<<"$list"
	done
	((${#want[@]})) || return 0
	mapfile -t want < <(printf '%s\n' "${want[@]}" | sort -u)
	if ! command -v apt-get >/dev/null; then
		lack "these, and there is no apt-get to install them with: ${want[*]}"
		return
	fi
	if ((EUID != 0)); then
		lack "these packages, and installing needs root: ${want[*]}"
		return
	fi
	say "installing ${want[*]}"
	local log
	log=$(mktemp)
	if ! apt_install "${want[@]}" >"$log" 2>&1; then
		tail -n 15 "$log" >&2
		lack "packages that apt-get could not install: ${want[*]}"
	fi
	rm -f "$log"
}

# apt_install [OPTION]... PACKAGE...
apt_install() {
	export DEBIAN_FRONTEND=noninteractive
	local apt=(apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0)
	while [[ $1 == -* ]]; do
		apt+=("$1" "$2")
		shift 2
	done
	# No daemon is started by the installation: with-docker.sh starts one for
	# as long as it is needed.
	local policy=/usr/sbin/policy-rc.d made_policy= failed=0
	if [[ ! -e $policy && ! -d /run/systemd/system ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made_policy=1
	fi
	"${apt[@]}" update </dev/null || true
	"${apt[@]}" install -y --no-install-recommends "$@" </dev/null || failed=1
	[[ -z $made_policy ]] || rm -f "$policy"
	return "$failed"
}

# install_suricata: a peer of bench that not every release of Debian has. Where
# this one lacks it, its backports are asked, at the mirror that the machine uses
# already and for this package alone. Without it bench measures the other peers.
install_suricata() {
	[[ " ${parts[*]} " == *" bench "* ]] || return 0
	! present suricata && ((EUID == 0)) && command -v apt-get >/dev/null || return 0
	say "installing suricata"
	local codename mirror dir
	dir=$(mktemp -d)
	if ! apt_install suricata >"$dir/log" 2>&1; then
		codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
		mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "Codename: $codename" 2>/dev/null | head -n 1)
		mkdir -p "$dir/lists/partial"
		printf "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror %s main\n" "$codename" "$codename-backports" >"$dir/sources.list"
		apt_install -o "Dir::Etc::SourceList=$dir/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$dir/lists" \
			-t "$codename-backports" suricata >>"$dir/log" 2>&1 ||
			say "no suricata, bench leaves that peer out: $(grep -m 1 '^E:' "$dir/log" || tail -n 1 "$dir/log")"
	fi
	rm -rf "$dir"
	# bench starts its own.
	if [[ -d /run/systemd/system ]] && present suricata; then systemctl -q disable --now suricata || true; fi
}

needs_root=
for part in "${parts[@]}"; do
	packages "$part" >/dev/null
	[[ $part == build || $part == generate ]] || needs_root=1
done

[[ -z $needs_root ]] || check_root
[[ -z $needs_root ]] || check_kernel
check_go
install_packages
install_suricata
[[ -z $needs_root ]] || ((${#missing[@]})) || check_features

if ((${#missing[@]})); then
	say "this machine lacks:"
	printf '  - %s\n' "${missing[@]}" >&2
	exit 1
fi
