# Development tasks. Run `make` to list them. Needs GNU make 3.81 or newer.
#
# Variables: CARGO_TARGET_DIR (where cargo builds), ARGS (more words for `petmesh up`, `cargo nextest run` and the like),
# POD (for logs), CONFORMANCE_DIR and BENCH_DIR (where the shared corpus and the benchmark lie); on a cluster CONTEXT, NAMESPACE,
# OVERLAY and what else `deploy/mesh.sh help` lists.

TARGET_DIR := $(if $(CARGO_TARGET_DIR),$(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/release
MESH_SH := deploy/mesh.sh
PETMESH := $(RELEASE)/petmesh
CONFORMANCE_DIR ?= ../shared/conformance
BENCH_DIR ?= ../shared/bench

# The six programs of the mesh; each package has one binary of its own name.
PROGRAMS := proxy sds ingress pet petstore petmesh
PACKAGES := $(foreach program,$(PROGRAMS),-p $(program))

# nextest runs each test in a process of its own and several crates at once; where it is absent cargo does it alone.
# Always the whole workspace, from which it takes some: with one set of features for all, every dependency is compiled once.
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)
ifeq ($(NEXTEST),yes)
RUN_TESTS = cargo nextest run --locked --workspace -E 'not package(e2e)'
RUN_E2E = cargo nextest run --locked --workspace -E 'package(e2e)'
# In a cluster a test takes what grace periods ask for.
PATIENTLY = --profile cluster
RUN_CHAOS = cargo nextest run --locked --workspace -E 'package(e2e) and test(chaos::)' --no-fail-fast
else
RUN_TESTS = cargo test --locked --workspace --exclude e2e
RUN_E2E = cargo test --locked -p e2e
RUN_CHAOS = cargo test --locked -p e2e --no-fail-fast --test mesh chaos::
endif

# Envoy and petmesh side by side. It reads ENVOY, SEED and MINUTES from the environment.
JUDGE_BIN = $(or $(CARGO_TARGET_DIR),target)/debug
JUDGE = $(JUDGE_BIN)/differential --proxy $(JUDGE_BIN)/proxy

.DEFAULT_GOAL := help
.PHONY: help build up down ps logs demo test e2e differential chaos lint fmt conformance bench bench-reading clean \
  images deploy undeploy url status e2e-containers e2e-k3s e2e-cluster

# What a user sets for a cluster, on make's command line or in the environment, reaches deploy/mesh.sh by the environment.
export KUBECTL CONTEXT CONFIRM OVERLAY NAMESPACE TIMEOUT IMAGES PORT APP CONTAINER FOLLOW TAIL ARCH REGISTRY \
  CONTAINERD_ADDRESS LINT_WITHOUT

##@ Run the mesh

up: build ## Start the whole mesh on this machine (ARGS='--replicas pet=3')
	@$(PETMESH) up $(ARGS)

down: ## Stop the mesh and all its processes
	@if [ -x $(PETMESH) ]; then $(PETMESH) down; else echo "no mesh is running: nothing has been built in $(RELEASE)"; fi

demo: build ## A tour: command, expected, observed (uses the running mesh, or one of its own)
	@PETMESH=$(PETMESH) e2e/demo.sh

ps: ## Show the pods: address, state, ports, log
	@$(call need_petmesh)
	@$(PETMESH) ps

# POD names a pod of the local mesh. Without it the logs are the cluster's, unless a local mesh runs and no APP is named.
logs: ## Follow a pod's log (POD=pet-1, ARGS='--container proxy'); of a cluster: APP=pet CONTAINER=proxy TAIL=50 FOLLOW=1
ifneq ($(POD),)
	@$(call need_petmesh)
	@$(PETMESH) logs $(POD) -f $(ARGS)
else
	@if [ -z "$(APP)" ] && [ -x $(PETMESH) ] && $(PETMESH) ps >/dev/null 2>&1; then \
	  echo "which pod? make logs POD=pet-1 (make ps shows them); of a cluster: make logs APP=pet" >&2; exit 2; \
	fi
	@$(MESH_SH) logs
endif

##@ Build and check

build: ## Build the six programs (release)
	@cargo build --locked --release $(PACKAGES)
	@echo "built in $(RELEASE): $(PROGRAMS)"

test: ## All tests but the end-to-end ones
	@$(RUN_TESTS) $(ARGS)
ifeq ($(NEXTEST),yes)
	@cargo test --locked --doc --workspace
endif
	@echo "tests: all green"

e2e: ## The whole mesh under test, as processes on this machine
	@cargo build --locked --workspace --bins
	@e2e/run.sh 'end-to-end tests' $(RUN_E2E) $(ARGS)
	@echo "end-to-end tests: all green"

differential: ## Compare with the real Envoy on generated configurations (ENVOY=, SEED=, MINUTES=)
	cargo build --locked -p proxy -p differential
	$(JUDGE) --cases crates/differential/cases
	$(JUDGE) $(ARGS)

chaos: ## All chaos cases, written into docs/chaos.md (E2E_TARGET=containers: needs the images)
ifneq ($(filter-out local,$(E2E_TARGET)),)
	@e2e/chaos.sh $(RUN_CHAOS) $(ARGS)
else
	@cargo build --locked --workspace --bins
	@e2e/chaos.sh $(RUN_CHAOS) $(ARGS)
endif

lint: ## Formatting, clippy, dependencies (licences, sources, use), scripts, the Dockerfile (LINT_WITHOUT=deny)
	@cargo fmt --all --check
	@cargo clippy --locked --workspace --all-targets -- -D warnings
	@.ci/lint

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

bench-reading: ## Reading and building 10,000 routes, beside Envoy (ENVOY=path of its program)
	@cargo build --locked --release -p proxy
	@python3 crates/xds/bench/reading.py --proxy $(RELEASE)/proxy $(if $(ENVOY),--envoy $(ENVOY)) $(ARGS)

clean: ## Remove what was built and the folder mesh/ (a running mesh is stopped first)
	@if [ -x $(PETMESH) ]; then $(PETMESH) down; fi
	@rm -rf mesh
	@cargo clean

##@ On Kubernetes

images: ## Build the images (static programs, nothing is pulled; ARCH=arm64 for such nodes)
	@deploy/images/build.sh

# One command: it finds out that everything else is there before it builds, which takes minutes.
deploy: ## Deploy to the current context, wait, print a curl that works (CONTEXT=, NAMESPACE=, OVERLAY=, IMAGES=loaded)
	@$(MESH_SH) deploy --build

undeploy: ## Delete what deploy created, and nothing else
	@$(MESH_SH) undeploy

url: ## A curl that works from here
	@$(MESH_SH) url

status: ## Deployments, pods, images, endpoints; fails unless all are ready
	@$(MESH_SH) status

# These need the images and no programs of this machine: the tests of the other targets' substrates run against them.
e2e-containers: ## The end-to-end tests in containers of our images (needs Docker)
	@$(MESH_SH) preflight containers
	@deploy/images/build.sh
	@E2E_TARGET=containers e2e/run.sh 'end-to-end tests in containers' $(RUN_E2E) $(ARGS)
	@echo "end-to-end tests in containers: all green"

e2e-k3s: ## The end-to-end tests in a k3s of their own (needs Docker, and pulls its image)
	@$(MESH_SH) preflight k3s
	@deploy/images/build.sh
	@E2E_TARGET=k3s e2e/run.sh 'end-to-end tests in k3s' $(RUN_E2E) $(PATIENTLY) $(ARGS)
	@echo "end-to-end tests in k3s: all green"

e2e-cluster: ## The end-to-end tests in the current context, in a namespace of their own
	@$(MESH_SH) load --build
	@E2E_TARGET=kubernetes e2e/run.sh 'end-to-end tests in the cluster' $(RUN_E2E) $(PATIENTLY) $(ARGS)
	@echo "end-to-end tests in the cluster: all green"

##@ Elsewhere

help: ## This list
	@awk 'BEGIN { FS = ":.*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

define need_petmesh
if [ ! -x $(PETMESH) ]; then echo "$(PETMESH) is not there: run 'make up' (or 'make build') first" >&2; exit 1; fi
endef
