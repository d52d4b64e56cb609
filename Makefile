# Every command of the project; CI runs these and nothing else. `make help` lists them.
WASM    := target/wasm32-wasip1/release/bellwether.wasm
LITE    := target/wasm32-wasip1/release/bellwether-lite.wasm
LINKED  := target/linked/wasm32-wasip1/release/bellwether.wasm
# Half of what "s" inlines: 2 % smaller, and most of the code is not on the request path.
INLINE   := -C llvm-args=-inline-threshold=25
# The filter must stay loadable in a moment on every worker.
WASM_MAX := 640000
LITE_MAX := 600000
SOURCES := $(shell find src -type f) Cargo.toml Cargo.lock

# The Envoys that `make test-matrix` runs on: the last release of each minor version on PyPI that has a Wasm runtime (1.38.3 has
# none). The first one is also that of `make test-oldest`.
ENVOYS  := 1.36.4 1.37.0 1.38.2 1.39.3 $(shell cat envoy/VERSION)

# Tests that run at the same time, each with an Envoy of its own: one a core, at most eight.
AT_ONCE := $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 8 ? cores : 8)))

# Every rule but that of the module itself.
.PHONY: $(shell grep -oE '^[a-z-]+:' $(firstword $(MAKEFILE_LIST)) | tr -d :)
.DEFAULT_GOAL := help

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

build: $(WASM) $(LITE) ## The filter: target/wasm32-wasip1/release/bellwether.wasm, and bellwether-lite.wasm, which reads no bodies

$(WASM): $(SOURCES) harness/postlink/src/main.rs
	rustup target add wasm32-wasip1 2>/dev/null || rustup target list --installed | grep -q wasm32-wasip1
	# As cdylib only: with the rlib beside it cargo does not optimize across crates.
	cargo rustc --quiet --release --target wasm32-wasip1 --target-dir target/linked --crate-type cdylib -- $(INLINE)
	mkdir -p $(dir $@)
	cargo run --quiet --package bellwether-postlink -- $(LINKED) $@
	@test $$(wc -c < $@) -le $(WASM_MAX) || { echo "the filter is larger than $(WASM_MAX) bytes"; rm $@; exit 1; }

$(LITE): $(WASM)
	cargo rustc --quiet --release --features lite --target wasm32-wasip1 --target-dir target/linked-lite --crate-type cdylib -- $(INLINE)
	cargo run --quiet --package bellwether-postlink -- $(subst linked,linked-lite,$(LINKED)) $@ lite
	@test $$(wc -c < $@) -le $(LITE_MAX) || { echo "the lite filter is larger than $(LITE_MAX) bytes"; rm $@; exit 1; }

envoy: ## Fetch the pinned Envoy into .envoy/ (unless ENVOY names one)
	@harness/scripts/fetch-envoy

prometheus: ## Fetch Prometheus and promtool into .prometheus/ (unless PROMETHEUS names their directory)
	@harness/scripts/fetch-prometheus

demo: build envoy ## Watch a rollback: Envoy, the filter, two mock providers (KEEP=1 leaves them running)
	cargo run --quiet --package bellwether-harness -- demo $(if $(KEEP),--keep)

test: lint test-native test-envoy test-oldest test-clients test-observe test-image test-page ## Everything CI needs

test-native: ## Unit, property and exhaustive tests, without Envoy
	cargo test --workspace --lib --bins
	cargo test --test native

test-envoy: build envoy ## Integration tests against a real Envoy with two workers
	cargo test --test envoy -- --test-threads $(AT_ONCE)

test-oldest: build ## Failover on the oldest Envoy
	harness/scripts/fetch-envoy $(firstword $(ENVOYS))
	ENVOY= ENVOY_VERSION=$(firstword $(ENVOYS)) cargo test --test envoy -- --test-threads $(AT_ONCE) failover::

test-matrix: build ## The integration tests on every supported Envoy (ENVOYS="1.38.2" for some), 25 minutes
	RUST_TEST_THREADS=$(AT_ONCE) harness/scripts/test-matrix $(ENVOYS)

test-clients: build envoy ## The official OpenAI and Anthropic clients against Envoy, streaming and not
	cargo build --quiet --package bellwether-harness
	harness/scripts/test-clients

test-observe: build envoy prometheus ## Dashboard and alerts: a real Prometheus scrapes a real Envoy
	cargo test --test observe

image: build ## The filter as an OCI image, for Istio and Envoy Gateway: target/image, no Docker needed
	harness/scripts/image

test-image: build ## That image, read as those who fetch it do
	cargo test --test image

test-kubernetes: ## The Kubernetes samples against generated types: builds a hundred crates, no part of `make test`
	cargo test --manifest-path tests/kubernetes-types/Cargo.toml --target-dir target/kubernetes-types

compose-up: engine build ## The demo in containers, with Prometheus (and Grafana where its image can be had): shows a rollback, keeps running
	harness/scripts/compose-images
	harness/scripts/compose-files target/compose/envoy
	harness/scripts/compose up --detach --remove-orphans
	cargo run --quiet --package bellwether-harness -- compose-demo

engine:
	@harness/scripts/compose version >/dev/null

compose-down: ## End what compose-up has started
	harness/scripts/compose down --remove-orphans --volumes --timeout 2

compose-test: engine build ## Scenarios in containers; needs a Docker engine, and is no part of `make test`
	harness/scripts/compose-images
	cargo test --test compose -- --ignored --test-threads 1

compose-engine: ## Install and start Debian's Docker engine and docker-compose, as root
	harness/scripts/compose-engine

test-page: build envoy ## The live page in a headless Chromium: canned answers, and a real Envoy
	cargo build --quiet --package bellwether-harness
	harness/scripts/test-page

fuzz: ## Each fuzz target for ten minutes, two at a time (MINUTES=1 JOBS=4 TARGETS="shared engine"); `make test` replays the corpora
	harness/scripts/fuzz $(TARGETS)

audit: .tools/bin/cargo-deny ## Security advisories, licences, bans and sources of all dependencies (needs the network)
	.tools/bin/cargo-deny --workspace --config harness/deny.toml check --hide-inclusion-graph
	.tools/bin/cargo-deny --manifest-path harness/fuzz/Cargo.toml --config harness/deny.toml check --hide-inclusion-graph

.tools/bin/cargo-deny:
	cargo install --locked --root .tools --version 0.20.2 cargo-deny

# Filters that ours is compared with; not post-linked, like any other on the SDK.
LINKED_BENCH := target/linked/wasm32-wasip1/release/bellwether_bench_
FILTERS := $(LINKED_BENCH)empty.wasm $(LINKED_BENCH)calls.wasm
MEASURE := cargo run --quiet --profile measure --package

$(LINKED_BENCH)%.wasm: harness/bench/%/src/lib.rs harness/bench/%/Cargo.toml Cargo.toml Cargo.lock
	rustup target add wasm32-wasip1 2>/dev/null || rustup target list --installed | grep -q wasm32-wasip1
	cargo rustc --quiet --release --package bellwether-bench-$* --target wasm32-wasip1 --target-dir target/linked --crate-type cdylib
	touch $@

bench: build envoy $(FILTERS) ## CPU time a request, sizes, workers, reloads: docs/measured/bench.md anew (BENCH="--rounds 3" for a look)
	eval "$$(harness/scripts/fetch-valgrind)"; $(MEASURE) bellwether-bench-engine -- $(if $(BENCH),,--out docs/measured/bench.md)
	$(MEASURE) bellwether-harness -- bench time $(or $(BENCH),--out docs/measured/bench.md)

bench-instructions: build envoy $(FILTERS) ## Instructions a request under callgrind: docs/measured/bench.md anew (BENCH="--only keys" for a look)
	eval "$$(harness/scripts/fetch-valgrind)"; $(MEASURE) bellwether-harness -- bench instructions $(or $(BENCH),--sizes --calls --out docs/measured/bench.md)

sim: ## The simulator: docs/measured/simulation.md anew, some twenty minutes (SIM="--quick --seed 2" for a look)
	cargo run --release --quiet --package bellwether-simulator -- $(or $(SIM),--trials 1000 --out docs/measured/simulation.md)

soak: build envoy ## Whether anything grows: MINUTES=30 of load with reloads, rotations, faults, rollbacks (SOAK="--growth 5")
	cargo run --release --quiet --package bellwether-harness -- soak --minutes $(or $(MINUTES),30) $(SOAK)

lint: ## Formatting, clippy (also for wasm), documentation, language of comments; all warnings are errors
	rustup target add wasm32-wasip1 2>/dev/null || rustup target list --installed | grep -q wasm32-wasip1
	cargo fmt --all --check
	cargo fmt --manifest-path harness/fuzz/Cargo.toml --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --target wasm32-wasip1 --target-dir target/linked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace
	harness/scripts/lint-language

clean: ## Remove what was built and fetched
	cargo clean
	rm -rf .envoy .venv .venv-page .prometheus .tools
