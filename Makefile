# Targets that need root say so; deploy/setup.sh installs what is missing.

export PATH := $(PATH):/usr/local/go/bin

PREFIX = /usr/local
UNITDIR = $(PREFIX)/lib/systemd/system

VERSION = $(shell git describe --tags --always --dirty 2>/dev/null)
BUILD = CGO_ENABLED=0 go build -trimpath -buildvcs=false

.PHONY: build install uninstall test fuzz demo bench generate generate-check lint clean

build: ## bin/gatehouse
	deploy/setup.sh build
	$(BUILD) -ldflags '-X main.version=$(VERSION)' -o bin/gatehouse ./cmd/gatehouse

install: build ## the program, its unit and bash's completion below PREFIX (root); docs/service.md goes on from there
	install -D -m 755 bin/gatehouse $(DESTDIR)$(PREFIX)/bin/gatehouse
	sed 's,/usr/local,$(PREFIX),' deploy/gatehouse.service | install -D -m 644 /dev/stdin $(DESTDIR)$(UNITDIR)/gatehouse.service
	bin/gatehouse completion bash | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gatehouse

uninstall: ## these files; `gatehouse uninstall`, before it, opens the network (root)
	rm -f $(DESTDIR)$(PREFIX)/bin/gatehouse $(DESTDIR)$(UNITDIR)/gatehouse.service $(DESTDIR)$(PREFIX)/share/bash-completion/completions/gatehouse

test: ## everything, privileged tests included (root)
	deploy/setup.sh test demo
	deploy/with-docker.sh deploy/test.sh

FUZZTIME = 30s

fuzz: ## every fuzz test for FUZZTIME
	deploy/fuzz.sh $(FUZZTIME)

demo: ## what Gatehouse does, on real containers (root)
	@deploy/setup.sh demo
	@$(BUILD) -ldflags '-X main.version=$(VERSION)' -o bin/gatehouse ./cmd/gatehouse
	@$(BUILD) -o bin/demo ./deploy/demo
	@$(BUILD) -o bin/intruder ./deploy/demo/intruder
	@deploy/with-docker.sh sh -c 'deploy/images/build.sh && bin/demo -gatehouse bin/gatehouse -intruder bin/intruder'

bench: build ## bench/RESULTS.md, a page and charts beside it, some 25 minutes (root)
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
