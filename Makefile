# Targets of splitsite. `make` lists them. Tests run from the build, as users run the program.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup peers build check lint test test-interop test-crash test-planted test-sim soak soak-checks soak-overflow evidence demo bench clean

# A build server must not pass by having nothing installed: missing test peers are failures there.
ifeq ($(CI),true)
export SPLITSITE_REQUIRE_PEERS := 1
endif

# Programs that tests talk to, and the Debian packages that hold them.
PEER_TOOLS := qemu-img qemu-io nbdinfo nbdcopy nbdkit fio fusermount3 nbdfuse
PEER_PACKAGES := qemu-utils libnbd-bin nbdkit fio fuse3 nbdfuse

# Two test files at a time: each may start two sites with their clients, and small machines have two cores.
# No file may take 30 minutes: one that hangs must fail, and not hold up the whole run.
NODE_TESTS = node --test --test-concurrency=2 \
	--test-reporter=spec --test-reporter-destination=stdout --test-reporter=tap
RUN_TESTS = $(NODE_TESTS) --test-timeout=1800000 --test-reporter-destination=build/tests.tap

# The simulation is computing alone, in a time of its own: beside all other tests, which wait for processes, disks and clocks a
# third of their time, it takes what they leave of the cores, and keeps none of them from anything. It is shown when it has ended.
RUN_ALL_TESTS = \
	nice -n 19 $(NODE_TESTS) --test-timeout=3600000 --test-reporter-destination=build/simulation.tap \
		$$(find dist/test/sim -name '*.test.js' | sort) >build/simulation.txt 2>&1 & simulation=$$!; \
	trap 'kill $$simulation' INT TERM; \
	status=0; \
	$(RUN_TESTS) $$(find dist/test -name '*.test.js' -not -path 'dist/test/sim/*' | sort) || status=$$?; \
	wait $$simulation || status=$$?; \
	cat build/simulation.txt; \
	exit $$status

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

node_modules/.setup: package-lock.json package.json
	npm ci --no-audit --no-fund
	@touch $@

setup: node_modules/.setup ## install the Node.js packages, when the lock file has changed

peers: ## install the Debian programs that tests talk to, when root and missing
	@missing=""; \
	for tool in $(PEER_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing test peers for:$$missing"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PEER_PACKAGES) >/dev/null \
			|| echo "test peers could not be installed; what needs them is skipped"; \
	else \
		echo "missing test peers:$$missing; what needs them is skipped (install: $(PEER_PACKAGES))"; \
	fi

# dist/ is made anew: a test whose source is gone must not run on.
# The command and its write thread are then made a few files of, in the place of those that the compiler wrote: a start that
# reads 600 modules takes twice the CPU. Whatever compiles again puts the single files back, so that neither is ever stale.
build: setup ## compile to dist/
	rm -rf dist
	npm run --silent build

check: setup ## check types only
	npx tsc -p tsconfig.json --noEmit

lint: setup ## check format and lint rules
	npx biome ci .

test: setup peers build lint ## everything: install, build, lint, all tests
	@mkdir -p build
	@$(RUN_ALL_TESTS)

test-interop: peers build ## only the tests with real NBD clients
	@mkdir -p build
	$(RUN_TESTS) $$(find dist/test/interop -name '*.test.js' | sort)

test-crash: build ## only the tests that kill real processes
	@mkdir -p build
	$(RUN_TESTS) $$(find dist/test/crash -name '*.test.js' | sort)

test-sim: build ## simulate both sites: SEED=17 one seed, else ARGS="--seeds 2000 --first 1"
	node dist/test/sim/main.js $(if $(SEED),--seed $(SEED)) $(ARGS)

soak: build ## real sites, every fault, for MINUTES=60
	node dist/test/soak/main.js --minutes $(or $(MINUTES),60) $(ARGS)

soak-checks: build ## consistency checks under full load for MINUTES=10, then 200 flipped bits to be found
	node dist/test/soak/checks.js --minutes $(or $(MINUTES),10) $(ARGS)

soak-overflow: build ## a GiB over a journal of 16 MiB, kills, resync, and failovers in its midst
	node dist/test/soak/overflow.js $(ARGS)

evidence: peers build ## all tests once, and docs/evidence.md with what they really did added
	rm -rf build/evidence
	@mkdir -p build
	export SPLITSITE_EVIDENCE="$(CURDIR)/build/evidence"; \
	export SPLITSITE_EVIDENCE_COMMIT="$$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"; \
	$(RUN_ALL_TESTS)
	cat build/evidence/figures.jsonl >> docs/evidence/figures.jsonl
	node dist/test/evidence/main.js docs/evidence.md docs/evidence

test-planted: build ## plant known bugs one at a time in a private copy; all must be caught (ARGS="--only ID --jobs 2")
	node dist/test/planted/main.js $(ARGS)

demo: build ## two sites on this machine: replicate, lose the primary, fail over, verify
	node dist/test/demo/main.js $(ARGS)

# Benchmarks compare with programs that no test needs.
bench: PEER_TOOLS += qemu-storage-daemon pgbench nbdsh
bench: PEER_PACKAGES += qemu-system-common postgresql python3-libnbd
bench: peers build ## ratios to known programs; results go to bench/results/
	node dist/bench/main.js $(ARGS)

clean: ## remove what builds and tests made
	rm -rf dist build
