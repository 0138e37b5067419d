# Each target is one line of set-up and one script or cargo command; `make help` lists them.
.DEFAULT_GOAL := help
# What is shipped; the workspace has more.
programs = --package espalier-cli --package espalier-coordinator --package espalier-worker
.PHONY: help setup build demo test sim sim-mutants lint docs fuzz experiments chaos reference test-python clean-cache

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## fetch libtorch, protoc, Fashion-MNIST and etcd into .cache (once; about 600 MB)
	@scripts/setup

build: setup ## build the release binaries into target/release
	cargo build --release --locked --bins $(programs)

demo: build ## train, compress, publish, pull and evaluate on Fashion-MNIST
	@scripts/demo

test: ## set up and run every check and test, as CI does
	@scripts/test

sim: setup ## simulate clusters under faults, from seed FIRST on (SEEDS=200 FIRST=0; docs/simulation.md)
	cargo run --locked -p espalier-sim -- many --first $(or $(FIRST),0) --seeds $(or $(SEEDS),200) --at-a-time $$(nproc)

sim-mutants: setup ## let the simulation catch deliberately wrong variants of the product
	cargo run --locked -p espalier-sim --features mutants -- mutants --at-a-time $$(nproc)

lint: setup ## check formatting, lints, and the dependencies' licences and sources
	@scripts/lint

fuzz: ## fuzz what reads strangers' bytes in the registry, coverage-guided (SECONDS=60 for each target)
	@scripts/fuzz $(SECONDS)

docs: setup ## regenerate the generated pages of docs/
	@scripts/docs

experiments: build ## train the tables of experiments/ and write their report (about two hours; ARGS="...")
	@scripts/experiments $(ARGS)

reference: ## recompute the stored PyTorch reference values (installs PyTorch: 4.6 GB)
	@scripts/reference

test-python: ## compare the PyTorch and timm loaders with the model (installs PyTorch: 4.6 GB)
	@scripts/test-python

chaos: setup ## ten minutes of kills, cuts and full disks on eight hosts of this machine (as root; MINUTES=10 SEED=...)
	cargo build --locked --bins $(programs)
	$(if $(MINUTES),ESPALIER_CHAOS_MINUTES=$(MINUTES)) $(if $(SEED),ESPALIER_CHAOS_SEED=$(SEED)) \
		cargo test --locked --package espalier-tests --test chaos -- --ignored --nocapture

clean-cache: ## remove .cache: everything that the set-up fetched
	rm -rf .cache
