# make test   all tests, with what they need installed where that is possible
# make check  formatting, static analysis, cross-builds
# make bench  benchmarks: Go's own, and whole commands beside casync and desync
# make man    manual pages from the commands

GO ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0

.PHONY: build test test-setup check bench bench-go bench-commands bench-trees bench-serve bench-mount bench-mcast fuzz man

build:
	CGO_ENABLED=0 $(GO) build -trimpath -o castor ./cmd/castor

test-setup:
	./.ci/setup

test: test-setup
	./.ci/test

check:
	STATICCHECK=$(STATICCHECK) GOVULNCHECK=$(GOVULNCHECK) ./.ci/check

bench: bench-go bench-commands

bench-go:
	$(GO) test -run '^$$' -bench . -benchtime 300ms ./...

bench-commands:
	./docs/bench/commands.sh

# Directory trees beside casync and tar.
bench-trees:
	./docs/bench/trees.py

# castor serve beside nginx; extracting from it, from nginx and from S3 beside casync.
bench-serve:
	./docs/bench/serve.py

# Mounts beside plain files and casync's; needs root and fio.
bench-mount:
	./docs/bench/mount.py

# Multicast beside uftp and udpcast, in namespaces; needs root.
bench-mcast:
	./docs/bench/mcast.py

# Every fuzz target for a while: make fuzz FUZZTIME=5m
FUZZTIME ?= 30s
fuzz:
	./.ci/fuzz $(FUZZTIME)

man:
	$(GO) run ./internal/mangen docs/man
