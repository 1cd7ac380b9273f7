# `make demo` shows the product, `make test` proves it. Both install what they need first (as root, on Debian 12).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup build lint test demo demo-group deb book kill-loop faults outage relations churn generations restore-kills bench bench-peers floors loadtest

export SEAWALL_TEST_CACHE ?= /var/tmp/seawall-test
CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(PATH)

REPO ?= local
MAJORS ?= 13 14 15 16 17 18
PEERS ?=
ARGS ?=
N ?= 60
SEED ?=
FAULTS ?= 100000
OUTAGE ?= 600
RELATIONS ?= 300000
CHURN ?= 30
GENERATIONS ?= 50
KILLS ?= 200
# Test programs at a time: they wait more than they work.
AT_ONCE ?= 3
# One set of features for build and test, so that nothing is compiled twice.
FEATURES := --features store/s3,agent/crash-points
# One set of features for all programs, for the same reason.
RELEASE := cargo build --release --workspace --bins
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Where the servers are; written by `make setup`.
WITH_SERVERS := set -a; . "$(SEAWALL_TEST_CACHE)/env"; set +a;

ALL_TESTS = cargo test --workspace $(FEATURES) --no-run --message-format=json > $(TARGET)/tests.json; \
  $(WITH_SERVERS) $(TARGET)/debug/run_tests $(AT_ONCE) $(TARGET)/failed.txt < $(TARGET)/tests.json

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install test servers and build tools (MAJORS="15 17" for two of six)
	@tests/setup/install.sh $(MAJORS) $(PEERS)

build: ## compile everything
	cargo build --workspace --bins --tests $(FEATURES)

lint: ## formatting and clippy, warnings are errors
	cargo fmt --all --check
	cargo clippy --workspace --all-targets $(FEATURES) -- -D warnings

test: setup build ## all tests, with real servers, some at a time (AT_ONCE=1 for one; ARGS="-p wal" for a part)
	$(if $(ARGS),$(WITH_SERVERS) cargo test --no-fail-fast $(ARGS),$(ALL_TESTS))

# They need one server, and no more than that is installed for them.
demo bench bench-peers loadtest: MAJORS := 15

demo: setup ## back up, destroy and restore a real server (REPO=local or s3)
	$(RELEASE)
	$(WITH_SERVERS) $(TARGET)/release/demo --repo $(REPO) $(ARGS)

demo-group: MAJORS := 15
demo-group: PEERS := redis7
demo-group: setup ## PostgreSQL, Redis and a directory, lost and brought back to one point
	$(RELEASE)
	$(WITH_SERVERS) $(TARGET)/release/demo_group

deb: ## build a Debian package (target/deb)
	$(RELEASE)
	systemd/package.sh $(TARGET)/release $(TARGET)/deb

# A tool of its own, out of the way of everything else.
MDBOOK := $(SEAWALL_TEST_CACHE)/mdbook
book: ## the documentation as a book (target/book)
	[ -x $(MDBOOK)/bin/mdbook ] || CARGO_TARGET_DIR=$(MDBOOK)/build cargo install --quiet --locked --root $(MDBOOK) --no-default-features mdbook@0.4.52
	rm -rf $(MDBOOK)/build
	$(MDBOOK)/bin/mdbook build --dest-dir $(abspath $(TARGET))/book docs/book

kill-loop: setup build ## kill agent and server N times, add up what was lost (N=60 SEED=... ARGS="--major 17 --fresh")
	$(WITH_SERVERS) target/debug/kill_loop --cycles $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

# What is asked of whole programs, ours and others', takes long: only by name.
IS_PEERS = $(findstring --bench peers,$(ARGS))
IS_SCALE = $(findstring --bench scale,$(ARGS))
IS_COMPONENTS = $(findstring --bench components,$(ARGS))
bench: PEERS := $(if $(IS_PEERS),pgbackrest barman) $(if $(IS_COMPONENTS),restic redis7)

bench: setup ## how fast is one part (ARGS="--bench wal_backlog" for one question; "--bench peers" beside other programs; "--bench scale" of 10 TB)
	$(if $(IS_PEERS)$(IS_SCALE)$(IS_COMPONENTS),$(RELEASE))
	$(WITH_SERVERS) cargo bench -p bench $(or $(ARGS),--bench backup --bench wal_backlog)

# In under half an hour: without the load beside a backup, and the second data set at half the size.
WALG ?=
WAL_RUS ?=
bench-peers: PEERS := pgbackrest barman
bench-peers: export SEAWALL_BENCH_PARTS ?= restores,increments,wal
bench-peers: export SEAWALL_BENCH_MIX_PERCENT ?= 50
bench-peers: export WALG := $(abspath $(WALG))
bench-peers: export WAL_RUS := $(abspath $(WAL_RUS))
bench-peers: setup ## every operation beside pgBackRest, Barman and PostgreSQL's own programs, in tables and pictures (WALG=/path WAL_RUS=/path)
	$(RELEASE)
	$(WITH_SERVERS) cargo bench -p bench --bench peers

# Twice where the first run falls short: a neighbour on the machine can spoil one.
MEASURE := cargo bench -p bench --bench backup --bench wal_backlog && cargo run --quiet --release -p bench --bin floors -- backup wal_backlog
floors: MAJORS := 15
floors: setup ## measure, and fail where a ratio is below bench/floor.toml
	$(WITH_SERVERS) { $(MEASURE); } || { echo "floors: once more"; $(MEASURE); }

loadtest: PEERS := $(if $(findstring recovery,$(ARGS)),pgbackrest)
loadtest: setup ## does the whole survive: load, faults and an oracle (ARGS="...")
	$(RELEASE)
	$(WITH_SERVERS) $(TARGET)/release/loadtest $(ARGS)

faults: setup build ## inject FAULTS=100000 faults into the store; runs add up in target/store-faults
	$(WITH_SERVERS) SEAWALL_FAULTS=$(FAULTS) cargo test --workspace $(FEATURES) --test store_faults -- --nocapture

outage: setup build ## let the store be dead for ten minutes (OUTAGE=600 seconds)
	$(WITH_SERVERS) SEAWALL_OUTAGE=$(OUTAGE) cargo test --workspace $(FEATURES) --test outage -- --nocapture

relations: setup build ## back up a cluster of very many files (RELATIONS=300000)
	$(WITH_SERVERS) SEAWALL_RELATIONS=$(RELATIONS) cargo test --workspace $(FEATURES) --test many_relations -- --nocapture

churn: setup build ## back up while everything comes and goes, restore each (CHURN=30 backups)
	$(WITH_SERVERS) SEAWALL_CHURN=$(CHURN) cargo test --workspace $(FEATURES) --test churn -- --nocapture

restore-kills: setup build ## cut a restore off anywhere, by signals and full disks (KILLS=200)
	$(WITH_SERVERS) SEAWALL_KILLS=$(KILLS) cargo test --workspace $(FEATURES) --test restore_over -- --nocapture

generations: setup build ## edit pages at random, back up, restore all at the end (GENERATIONS=50)
	$(WITH_SERVERS) SEAWALL_GENERATIONS=$(GENERATIONS) cargo test --workspace $(FEATURES) --test generations -- --nocapture
