# petmesh: what can be done here, one target a thing; `make` alone lists them. GNU make 3.81 or newer.
#
# Variables: CARGO_TARGET_DIR (where cargo builds), ARGS (more words for `petmesh up`, `cargo nextest run` and the like),
# POD (for logs), CONFORMANCE_DIR and BENCH_DIR (where the shared corpus and the benchmark lie).

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release
PETMESH := $(RELEASE)/petmesh
CONFORMANCE_DIR ?= ../shared/conformance
BENCH_DIR ?= ../shared/bench

# The six programs of the mesh; each package has one binary of its own name.
PROGRAMS := proxy sds ingress pet petstore petmesh
PACKAGES := $(foreach program,$(PROGRAMS),-p $(program))

# nextest runs each test in a process of its own and several crates at once; where it is absent cargo does it alone.
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
ifeq ($(NEXTEST),yes)
RUN_TESTS = cargo nextest run --locked
else
RUN_TESTS = cargo test --locked
endif

.DEFAULT_GOAL := help
.PHONY: help build up down ps logs demo test e2e lint fmt conformance bench deploy clean

##@ Run the mesh

up: build ## Start the whole mesh on this machine (ARGS='--replicas pet=3')
	@$(PETMESH) up $(ARGS)

down: ## Stop it; nothing stays behind
	@if [ -x $(PETMESH) ]; then $(PETMESH) down; else echo "no mesh is running: nothing has been built in $(RELEASE)"; fi

demo: build ## A tour: command, expected, observed (uses the running mesh, or one of its own)
	@PETMESH=$(PETMESH) e2e/demo.sh

ps: ## Show the pods: address, state, ports, log
	@$(call need_petmesh)
	@$(PETMESH) ps

logs: ## Follow a pod's log (POD=pet-1, ARGS='--container proxy')
	@$(call need_petmesh)
	@if [ -z "$(POD)" ]; then echo "which pod? make logs POD=pet-1 (make ps shows them)" >&2; exit 2; fi
	@$(PETMESH) logs $(POD) -f $(ARGS)

##@ Build and check

build: ## Build the six programs (release)
	@cargo build --locked --release $(PACKAGES)
	@echo "built in $(RELEASE): $(PROGRAMS)"

test: ## All tests but the end-to-end ones
	@$(RUN_TESTS) --workspace --exclude e2e $(ARGS)
ifeq ($(NEXTEST),yes)
	@cargo test --locked --doc --workspace --exclude e2e
endif
	@echo "tests: all green"

e2e: ## The whole mesh under test, as processes on this machine
	@cargo build --locked $(PACKAGES)
	@$(RUN_TESTS) -p e2e $(ARGS)
	@echo "end-to-end tests: all green"

lint: ## Formatting, clippy, licences and sources of dependencies
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@.ci/deny
	@echo "lint: clean"

fmt: ## Format the code
	@cargo fmt --all
	@echo "formatted"

conformance: ## Compare the proxy with recorded Envoy behaviour (CONFORMANCE_DIR=…; ARGS=--update keeps the new list)
	@if [ ! -f $(CONFORMANCE_DIR)/run.py ]; then \
	  echo "skipped: no corpus at $(CONFORMANCE_DIR) (set CONFORMANCE_DIR to the folder that holds run.py)"; \
	else \
	  cargo build --locked --release -p proxy && \
	  .ci/conformance --corpus $(CONFORMANCE_DIR) --proxy $(RELEASE)/proxy $(ARGS); \
	fi

bench: ## Measure the proxy beside Envoy, one worker each (BENCH_DIR=…)
	@if [ ! -f $(BENCH_DIR)/bench.py ]; then \
	  echo "skipped: no benchmark at $(BENCH_DIR) (set BENCH_DIR to the folder that holds bench.py)"; \
	else \
	  cargo build --locked --release -p proxy && \
	  python3 $(BENCH_DIR)/bench.py --build && \
	  python3 $(BENCH_DIR)/bench.py --proxies limit,envoy,ours=$(abspath $(RELEASE)/proxy) \
	    --scenarios h1-small,two-hop,mem,startup --rounds 8 --secs 1 $(ARGS); \
	fi

clean: ## Remove what was built and the folder mesh/ (a running mesh is stopped first)
	@if [ -x $(PETMESH) ]; then $(PETMESH) down; fi
	@rm -rf mesh
	@cargo clean

##@ Elsewhere

deploy: ## Kubernetes: comes with the next issue
	@echo "make deploy: not there yet, Kubernetes manifests and images come with the next issue; make up runs the same mesh on this machine" >&2; exit 1

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

define need_petmesh
if [ ! -x $(PETMESH) ]; then echo "$(PETMESH) is not there: run 'make up' (or 'make build') first" >&2; exit 1; fi
endef
