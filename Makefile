# Every command of the project; CI runs these and nothing else. `make help` lists them.
WASM    := target/wasm32-wasip1/release/bellwether.wasm
LINKED  := target/linked/wasm32-wasip1/release/bellwether.wasm
# Half of what "s" inlines: 2 % smaller, and most of the code is not on the request path.
INLINE   := -C llvm-args=-inline-threshold=40
# The filter must stay loadable in a moment on every worker.
WASM_MAX := 400000
SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock

.PHONY: help build envoy prometheus demo test test-native test-envoy test-clients test-observe sim soak lint clean
.DEFAULT_GOAL := help

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

build: $(WASM) ## The filter: target/wasm32-wasip1/release/bellwether.wasm

$(WASM): $(SOURCES) postlink/src/main.rs
	rustup target add wasm32-wasip1 2>/dev/null || rustup target list --installed | grep -q wasm32-wasip1
	# As cdylib only: with the rlib beside it cargo does not optimize across crates.
	cargo rustc --quiet --release --target wasm32-wasip1 --target-dir target/linked --crate-type cdylib -- $(INLINE)
	mkdir -p $(dir $@)
	cargo run --quiet --package bellwether-postlink -- $(LINKED) $@
	@test $$(wc -c < $@) -le $(WASM_MAX) || { echo "the filter is larger than $(WASM_MAX) bytes"; rm $@; exit 1; }

envoy: ## Fetch the pinned Envoy into .envoy/ (unless ENVOY names one)
	@scripts/fetch-envoy

prometheus: ## Fetch Prometheus and promtool into .prometheus/ (unless PROMETHEUS names their directory)
	@scripts/fetch-prometheus

demo: build envoy ## Watch a rollback: Envoy, the filter, two mock providers (KEEP=1 leaves them running)
	cargo run --quiet --package bellwether-harness -- demo $(if $(KEEP),--keep)

test: lint test-native test-envoy test-clients test-observe ## Everything CI needs

test-native: ## Unit, property and exhaustive tests, without Envoy
	cargo test --workspace --lib --bins
	cargo test --test config --test properties --test samples

test-envoy: build envoy ## Integration tests against a real Envoy with two workers
	cargo test $(patsubst tests/%.rs,--test %,$(wildcard tests/envoy_*.rs))

test-clients: build envoy ## The official OpenAI and Anthropic clients against Envoy, streaming and not
	cargo build --quiet --package bellwether-harness
	scripts/test-clients

test-observe: build envoy prometheus ## Dashboard and alerts: a real Prometheus scrapes a real Envoy
	cargo test --test observe

sim: ## The simulator: docs/SIMULATION.md anew, ten minutes (SIM="--quick --seed 2" for a look)
	cargo run --release --quiet --package bellwether-simulator -- $(or $(SIM),--trials 1000 --out docs/SIMULATION.md)

soak: build envoy ## Whether anything grows: MINUTES=30 of load with reloads, rotations, faults, rollbacks (SOAK="--growth 5")
	cargo run --release --quiet --package bellwether-harness -- soak --minutes $(or $(MINUTES),30) $(SOAK)

lint: ## Formatting, clippy (also for wasm), documentation; all warnings are errors
	rustup target add wasm32-wasip1 2>/dev/null || rustup target list --installed | grep -q wasm32-wasip1
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --target wasm32-wasip1 --target-dir target/linked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps --workspace

clean: ## Remove what was built and fetched
	cargo clean
	rm -rf .envoy .venv .prometheus
