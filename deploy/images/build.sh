#!/usr/bin/env bash
# build.sh: the images of the demo and of the Docker tests, without a registry.
#
# The servers are Debian's own packages, unpacked into one layer each over a
# common base, and configured while the image is built. They carry the names
# that such images have in the world (nginx:1, postgres:15, redis:7,
# mariadb:10, wordpress:6-apache and others), so the models match them by name; the application of the demo
# is demo/app:1, and localhost/demo/app:1. Packages are kept in GATEHOUSE_CACHE, default
# /var/cache/gatehouse. An image made by the same recipe is left as it is.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${GATEHOUSE_CACHE:-/var/cache/gatehouse}
debs=$cache/debs
work=
trap '[[ -z $work ]] || rm -rf "$work"' EXIT

say() { printf 'images: %s\n' "$*" >&2; }

# A recipe is this script without the other images of its list, and the image's
# own Dockerfile and packages; the label tells whether the image at hand was made by it.
script() { sed '/^servers="/,/"$/d' "$here/build.sh"; }
recipe() { # NAME PACKAGES
	{
		script
		cat "$here/base.Dockerfile" "$here/$1.Dockerfile"
		echo "$2"
		[[ ! -d $here/$1 ]] || find "$here/$1" -type f | sort | xargs cat
	} | sha256sum | cut -c1-16
}

current() { # TAG HASH
	[[ $(docker image inspect -f '{{index .Config.Labels "demo.recipe"}}' "$1" 2>/dev/null) == "$2" ]]
}

# closure PACKAGE...: the files of these packages and all that they depend on,
# downloaded if need be, one a line. An empty status file makes apt count what
# this machine has installed as missing. Left out: what only speeds up or
# translates (PostgreSQL's JIT, locales) and what only maintainer scripts call.
closure() {
	local opts=(-o Dir::State::status="$work/none" -o Dir::Cache::archives="$debs" -o APT::Install-Recommends=false
		-o APT::Keep-Downloaded-Packages=true -o APT::Sandbox::User=root)
	apt-get -qq -y "${opts[@]}" --download-only install "$@" >"$work/apt.log" 2>&1 </dev/null ||
		{ say "apt-get cannot download $*:"; tail -n 5 "$work/apt.log" >&2; return 1; }
	# With everything downloaded --print-uris names nothing; a simulation does.
	apt-get -qq -y "${opts[@]}" --simulate install "$@" </dev/null |
		sed -nE 's/^Inst ([^ ]+) \(([^ ]+) .*\[([a-z0-9]+)\].*/\1_\2_\3.deb/p' | sed 's/:/%3a/' |
		grep -vE '^(libllvm14|libz3-4|locales|perl-modules-5.36|libperl5.36|dpkg|apt|ucf|debconf|lsof|rsync)_' | sort
}

# unpack TREE < files: the packages' contents, without documentation.
unpack() {
	local deb
	mkdir -p "$1"/usr/{bin,sbin,lib,lib64}
	local dir
	for dir in bin sbin lib lib64; do ln -sfn "usr/$dir" "$1/$dir"; done
	while read -r deb; do
		dpkg-deb --fsys-tarfile "$debs/$deb" | tar -x --keep-directory-symlink -C "$1" \
			--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
			--exclude='./usr/share/info/*' --exclude='./lib/systemd/*'
	done
}

# foreign reports whether TAG names an image that was not made here.
foreign() { [[ -n $(docker image ls -q "$1") && -z $(docker image ls -q --filter label=demo.recipe "$1") ]]; }

build() { # NAME TAG: builds $work/NAME
	if foreign "$2"; then
		say "$2 is an image of yours, and the demo would put its own in its place: run it on another machine, or \`docker tag $2 OTHER && docker rmi $2\` first"
		return 1
	fi
	DOCKER_BUILDKIT=0 docker build -q --network none --build-arg RECIPE="$3" -t "$2" "$work/$1" >"$work/build.log" 2>&1 ||
		{ say "$2 cannot be built:"; tail -n 20 "$work/build.log" >&2; return 1; }
}

build_base() {
	local tree=$work/base/rootfs
	mkdir -p "$tree"
	closure bash coreutils sed grep hostname >"$work/base.debs"
	unpack "$tree" <"$work/base.debs"
	mkdir -p "$tree"/{etc,tmp,run,proc,sys,dev,root,var/lib,var/log}
	chmod 1777 "$tree/tmp"
	ln -sfn bash "$tree/usr/bin/sh"
	printf '%s\n' root:x:0:0::/root:/bin/sh www-data:x:33:33::/var/www:/bin/false postgres:x:101:101::/var/lib/postgresql:/bin/sh \
		redis:x:102:102::/var/lib/redis:/bin/false mysql:x:103:103::/var/lib/mysql:/bin/false nobody:x:65534:65534::/:/bin/false >"$tree/etc/passwd"
	printf '%s\n' root:x:0: www-data:x:33: postgres:x:101: redis:x:102: mysql:x:103: nogroup:x:65534: >"$tree/etc/group"
	printf 'hosts: files dns\n' >"$tree/etc/nsswitch.conf"
	tar -C "$tree" -cf "$work/base/rootfs.tar" .
	rm -rf "$tree"
	cp "$here/base.Dockerfile" "$work/base/Dockerfile"
	build base demo/base:1 "$base_hash"
}

build_server() { # NAME TAG HASH PACKAGE...
	local name=$1 tag=$2 hash=$3
	shift 3
	local tree=$work/$name/rootfs
	mkdir -p "$tree"
	[[ -s $work/base.debs ]] || closure bash coreutils sed grep hostname >"$work/base.debs"
	closure "$@" | grep -vxFf "$work/base.debs" | unpack "$tree"
	tar -C "$tree" -cf "$work/$name/rootfs.tar" --exclude=./bin --exclude=./sbin --exclude=./lib --exclude=./lib64 .
	rm -rf "$tree"
	cp "$here/$name.Dockerfile" "$work/$name/Dockerfile"
	[[ ! -d $here/$name ]] || cp -r "$here/$name" "$work/$name/files"
	build "$name" "$tag" "$hash"
	rm -rf "${work:?}/$name"
}

build_app() {
	local dir=$work/app hash
	mkdir -p "$dir"
	(cd "$root" && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags='-s -w' -o "$dir/app" ./deploy/demo/app)
	hash=$(cat "$dir/app" "$here/app.Dockerfile" | sha256sum | cut -c1-16)
	if ! current demo/app:1 "$hash"; then
		say "building demo/app:1"
		cp "$here/app.Dockerfile" "$dir/Dockerfile"
		build app demo/app:1 "$hash"
	fi
	docker tag demo/app:1 localhost/demo/app:1 # for Swarm, which would ask a registry for the other
}

servers="nginx nginx:1 nginx-light
postgres postgres:15 postgresql-15
redis redis:7 redis-server
mariadb mariadb:10 mariadb-server
wordpress wordpress:6-apache apache2 libapache2-mod-php8.2 php8.2-mysql php-redis wordpress wordpress-theme-twentytwentythree
prometheus prom/prometheus:v2 prometheus
alertmanager prom/alertmanager:v0 prometheus-alertmanager
node-exporter prom/node-exporter:v1 prometheus-node-exporter
rabbitmq rabbitmq:3-management rabbitmq-server
celery demo/celery:1 celery python3-psycopg2 python3-sqlalchemy
unbound mvance/unbound:1 unbound
postfix boky/postfix:3 postfix findutils
dovecot dovecot/dovecot:2.3 dovecot-core dovecot-imapd dovecot-lmtpd"

work=$(mktemp -d /tmp/gatehouse-images.XXXXXX)
: >"$work/none"
PATH=$PATH:/usr/local/go/bin
base_hash=$({ script; cat "$here/base.Dockerfile"; } | sha256sum | cut -c1-16)

build_app
while read -r name tag packages; do
	hash=$(recipe "$name" "$packages")
	current "$tag" "$hash" && continue
	mkdir -p "$debs/partial"
	compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt-get -qq update </dev/null
	current demo/base:1 "$base_hash" || { say "building demo/base:1"; build_base; }
	say "building $tag"
	# shellcheck disable=SC2086 # several packages
	build_server "$name" "$tag" "$hash" $packages
done <<<"$servers"
