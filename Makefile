# Targets that need root say so; deploy/setup.sh installs what is missing.

export PATH := $(PATH):/usr/local/go/bin

.PHONY: build test fuzz demo bench generate generate-check lint clean

build: ## bin/gatehouse
	deploy/setup.sh build
	CGO_ENABLED=0 go build -trimpath -o bin/gatehouse ./cmd/gatehouse

test: ## everything, privileged tests included (root)
	deploy/setup.sh test demo
	deploy/with-docker.sh deploy/test.sh

FUZZTIME = 30s

fuzz: ## every fuzz test for FUZZTIME
	deploy/fuzz.sh $(FUZZTIME)

demo: ## what Gatehouse does, on real containers (root)
	@deploy/setup.sh demo
	@CGO_ENABLED=0 go build -trimpath -o bin/gatehouse ./cmd/gatehouse
	@CGO_ENABLED=0 go build -trimpath -o bin/demo ./deploy/demo
	@CGO_ENABLED=0 go build -trimpath -o bin/intruder ./deploy/demo/intruder
	@deploy/with-docker.sh sh -c 'deploy/images/build.sh && bin/demo -gatehouse bin/gatehouse -intruder bin/intruder'

bench: build ## bench/RESULTS.md, a page and charts beside it, some 20 minutes (root)
	deploy/setup.sh bench
	bin/gatehouse bench all --out bench

generate: ## the eBPF objects and their Go, with Debian's clang 14
	deploy/setup.sh generate
	go generate ./dataplane/steer

generate-check: generate ## fails where the committed objects are not what the source gives
	git diff --exit-code -- dataplane/steer

lint:
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	go tool staticcheck ./...

clean:
	rm -rf bin
