# The two commands of the README, and their parts. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

PLUGINS := $(notdir $(wildcard plugins/*))
EXAMPLE := examples/02-vm-provisioning
CARGO := cargo --locked

# A toolchain that was installed a moment ago is not on the caller's PATH yet.
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

.PHONY: packages
packages: ## Install the system packages and the Rust toolchain that are missing
	@tests/testbed/install-packages.sh

.PHONY: images
images: packages ## Build the guest images (target/testbed)
	@tests/testbed/build-images.sh

.PHONY: build
build: packages ## Build farmhand and its phase modules for use (target/release, target/modules)
	@$(CARGO) build --release
	for plugin in $(PLUGINS); do target/release/farmhand module build plugins/$$plugin --output target/modules/$$plugin.wasm; done

.PHONY: demo
demo: images build ## Run the example twice and show what each run did
	@trap tests/testbed/stop-libvirt.sh EXIT
	libvirt=$$(tests/testbed/start-libvirt.sh)
	eval "$$libvirt"
	$(EXAMPLE)/demo.sh target/release/farmhand

# With the tests' own build of the program: another choice of packages and features would compile everything once more.
.PHONY: modules
modules: packages ## Build the tests, and the phase modules that they use (target/modules)
	@$(CARGO) test --workspace --no-run
	for plugin in $(PLUGINS); do
	    target/debug/farmhand module build plugins/$$plugin --output target/modules/$$plugin.wasm
	done

.PHONY: lint
lint: packages ## Check format and lints
	@cargo fmt --all --check
	cargo fmt --check --manifest-path tests/hostile/modules/Cargo.toml
	$(CARGO) clippy --workspace --all-targets -- --deny warnings
	$(CARGO) clippy $(addprefix --package ,$(PLUGINS)) --target wasm32-unknown-unknown -- --deny warnings

.PHONY: deny
deny: packages ## Check the dependencies' licences and sources (installs cargo-deny)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny --locked check bans licenses sources

.PHONY: fuzz
fuzz: packages ## Feed farmhand with farms, modules and calls that nobody would write, for a minute
	@tests/fuzz/run.sh 20

.PHONY: test
test: lint modules images ## Run all tests, those on real machines included
	@trap tests/testbed/stop-libvirt.sh EXIT
	libvirt=$$(tests/testbed/start-libvirt.sh)
	eval "$$libvirt"
	$(CARGO) test --workspace
