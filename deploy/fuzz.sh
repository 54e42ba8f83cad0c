#!/bin/sh
# Fuzzes with every fuzz test of the repository, one after the other: fuzz.sh TIME [PACKAGE].
# What is new is not made shorter first: by default that takes up to a minute for each
# input, in which a worker tries nothing else, and a test of files meets new paths
# all the time. The instrumented build cannot be vetted where tests import
# testing/synctest.
set -eu
for package in $(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' "${2:-./...}"); do
	for test in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		echo "$package $test"
		go test "$package" -vet=off -run '^$' -fuzz "^$test\$" -fuzztime "$1" -fuzzminimizetime 1x
	done
done
