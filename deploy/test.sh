#!/usr/bin/env bash
# test.sh: the test suite, with a Docker daemon at hand (make test).
#
# Format, vet, staticcheck, all tests: packages that share the machine's
# namespaces, devices or Docker one at a time, the others beside each other.
# Then what the race detector can look at, with -short: comparisons with a
# reference in one goroutine, which it slows and finds nothing in, make a tenth of
# their cases. Seed corpora of the fuzz tests run as tests. Every skip is listed;
# one for a missing capability fails, since here is root.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/local/go/bin

part() { printf '\n== %s ==\n' "$*"; }

part format
unformatted=$(gofmt -l .)
[[ -z $unformatted ]] || { printf 'not formatted:\n%s\n' "$unformatted"; exit 1; }

part vet
go vet ./...

part arm64, which builds and is vetted
GOARCH=arm64 go build ./...
GOARCH=arm64 go vet ./...

part staticcheck
go tool staticcheck ./...

part images
deploy/images/build.sh

go build -o bin/verdict ./deploy/verdict

shares='/(bench|dataplane|control/docker|cmd/gatehouse)(/|$)'
mapfile -t alone < <(go list ./... | grep -E "$shares")
mapfile -t beside < <(go list ./... | grep -vE "$shares")

tests() {
	local failed=0
	go test -json -count=1 -timeout 15m "${beside[@]}" || failed=1
	go test -json -count=1 -p 1 -timeout 15m "${alone[@]}" || failed=1
	return $failed
}

part tests
tests | bin/verdict -strict

part clsact, where there is no tcx
GATEHOUSE_TEST_ATTACH=clsact go test -json -count=1 -timeout 15m ./dataplane/steer | bin/verdict -strict

part race detector
# Out of it: what needs the machine to itself, and what only measures.
mapfile -t packages < <(go list ./... | grep -vE '/(bench|deploy|dataplane/(steer|afxdp))(/|$)|/cmd/gatehouse$')
go test -json -count=1 -short -race -timeout 15m "${packages[@]}" | bin/verdict
