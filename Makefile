# What a person needs; CI calls only these. `make` alone explains them.
SHELL := /bin/bash
CARGO ?= cargo
TARGET := $(shell $(CARGO) metadata --format-version 1 --no-deps 2>/dev/null | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
BIN := $(or $(TARGET),target)/release
PREFIX ?= /usr/local
DESTDIR ?=

.DEFAULT_GOAL := help
.PHONY: help deps build failpoints run test check nri streaming e2e steps conformance scale bench install clean

help: ## this text
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

deps: ## install what a build needs (Debian and Ubuntu by apt; elsewhere name it)
	@scripts/deps.sh build

build: deps ## windlassd, windlass and containerd-shim-runc-v2 into target/release
	$(CARGO) build --release --locked -p windlassd -p windlass
	$(CARGO) rustc --profile shim --locked -p containerd-shim-runc-v2 --bin containerd-shim-runc-v2 -- \
	  -C target-feature=+crt-static -C relocation-model=static
	@install -m 0755 $(BIN)/../shim/containerd-shim-runc-v2 $(BIN)/containerd-shim-runc-v2

failpoints: deps ## binaries that a test can kill at a named step, into target/failpoints
	$(CARGO) build --release --locked -p windlassd --features windlassd/failpoints
	$(CARGO) rustc --profile shim --locked -p containerd-shim-runc-v2 --features failpoints --bin containerd-shim-runc-v2 -- \
	  -C target-feature=+crt-static -C relocation-model=static
	@install -d $(BIN)/../failpoints
	@install -m 0755 $(BIN)/windlassd $(BIN)/../shim/containerd-shim-runc-v2 $(BIN)/../failpoints/

run: build ## build, start a private daemon, run a container (IMAGE=… for one from a registry), stay until Ctrl-C
	@BIN=$(BIN) IMAGE='$(IMAGE)' scripts/run.sh

test: build ## unit, conformance suites and end to end, against daemons under private roots (root needed)
	@scripts/deps.sh test
	$(CARGO) test --release --locked --workspace --exclude windlassd --exclude windlass --exclude containerd-shim-runc-v2
	$(CARGO) test --release --locked -p windlassd -p windlass
	$(CARGO) test --release --locked -p containerd-shim-runc-v2

check: ## formatting, clippy, tidy rules, dependencies' licences and advisories
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(CARGO) test --release --locked -p windlass-tests --test tidy
	@scripts/deny.sh

steps: failpoints ## kill the daemon and the shim at every named step, and look for what is lost or left over
	@$(MAKE) --no-print-directory build
	$(CARGO) test --release --locked -p windlass-tests --features failpoints --test steps --test cri_steps -- --nocapture

nri: deps ## plugins made of NRI's own Go stub against our host of plugins
	$(CARGO) build --release --locked -p windlass-nri --example host
	cd tests/go && NRI_HOST=$(BIN)/examples/host go test -count=1 ./nri

streaming: deps ## Kubernetes' own client against our streaming server
	$(CARGO) build --release --locked -p windlass-streaming --example echo
	cd tests/go && STREAMING_ECHO=$(BIN)/examples/echo go test -count=1 ./streaming

e2e: build ## the end-to-end tests alone
	$(CARGO) test --release --locked -p windlass-tests

conformance: build ## unmodified Go clients against our daemon (RIG=… names where clients and registries are)
	@BIN=$(BIN) scripts/conformance.sh

scale: build ## a thousand pods, twenty thousand probes, a daemon killed among a hundred pods: what is left of them (RIG=…)
	@BIN=$(BIN) ONLY=scale scripts/conformance.sh

bench: build ## windlassd and a stock containerd (CONTAINERD=its socket) in turn: medians and ratios
	$(CARGO) build --release --locked -p windlass-bench
	@BIN=$(BIN) scripts/bench.sh

install: build ## into $(DESTDIR)$(PREFIX)/bin, with a systemd unit
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/systemd/system
	install -m 0755 $(BIN)/windlassd $(BIN)/windlass $(BIN)/containerd-shim-runc-v2 $(DESTDIR)$(PREFIX)/bin/
	sed 's|@PREFIX@|$(PREFIX)|' scripts/windlass.service > $(DESTDIR)$(PREFIX)/lib/systemd/system/windlass.service

clean: ## remove build outputs
	$(CARGO) clean
