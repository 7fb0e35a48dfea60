# Two commands matter: `make golden` and `make test`. Both do their own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

IMAGE ?= debian-13
# what a night leaves of layers and saved guests
LAYERS ?= 40G
# test processes with guests at a time; their guests have one processor each
GUESTS ?= 2
# the Python of the host that a wheelhouse is for: Debian 13's
PYTHON ?= 3.13
BIN := .venv/bin

.PHONY: help setup lock wheel wheelhouse deb golden nightly prove test guests quick check docs bench doctor clean test-kvm test-windows test-azure

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  IMAGE=$(IMAGE)  $$(cd images && echo *.yaml)"

setup: ## packages, virtual environment, store, libvirt's daemons (only what is missing)
	@tools/setup.sh

golden: setup ## build IMAGE: a proven golden master in the gallery
	@$(BIN)/goldsmith build $(IMAGE)

nightly: setup ## refresh every image whose inputs changed: build, prove, promote, let the oldest go, layers beyond LAYERS too
	@$(BIN)/goldsmith refresh --all --max-size $(LAYERS)

prove: setup ## clones of the golden master of IMAGE on every machine of the matrix
	@$(BIN)/goldsmith prove $(IMAGE)

test: ## lint, types and all tests, those with virtual machines included; prints what each part took
	@tools/run_tests.sh

guests: setup ## the tests with virtual machines alone
	@$(BIN)/pytest -n $(GUESTS) --dist loadgroup -m vm tests/vm tests/windows

quick: setup ## the tests that boot nothing; what needs the tests' own packages is skipped without them
	@$(BIN)/pytest -n 3 --dist worksteal -m "not vm"

check: setup ## lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: setup ## the documentation as a site of static pages: build/site/index.html; with Chromium its pictures are drawn again
	@if command -v chromium >/dev/null; then $(BIN)/python -m tests.pictures; fi
	@$(BIN)/python tools/docs_site.py

wheel: setup ## goldsmith as a wheel, for pipx: build/goldsmith-*.whl
	@rm -rf build/lib build/bdist.*
	@$(BIN)/pip --quiet wheel --no-deps --wheel-dir build .
	@ls build/goldsmith-*.whl

wheelhouse: setup ## goldsmith and its Python packages for PYTHON, for a host without an index: build/wheelhouse-PYTHON/
	@rm -rf build/lib build/bdist.* build/wheelhouse-$(PYTHON)
	@$(BIN)/python tools/wheelhouse.py build/wheelhouse-$(PYTHON) $(PYTHON)

deb: ## a Debian package for hosts of this host's release: build/goldsmith_*.deb
	@tools/make_deb.sh

lock: setup ## the Python packages of a release with versions and digests: tools/requirements.lock, tools/build.lock
	@$(BIN)/python tools/lock.py

campaign-%: setup ## run a whole corpus; its table goes to docs/reports/
	@tools/setup.sh tests
	@$(BIN)/python -m tests.campaigns $*

test-kvm: setup ## for a host with KVM: build and prove IMAGE; leaves a redacted, signed archive (docs/field-kit.md)
	@IMAGE=$(IMAGE) $(BIN)/python -m tests.field kvm

test-windows: setup ## with WINDOWS_ISO and VIRTIO_ISO: build and prove Windows; leaves an archive
	@$(BIN)/python -m tests.field windows

test-azure: setup ## with AZURE_SUBSCRIPTION: IMAGE as VMs on Azure, deleted at the end; leaves an archive
	@IMAGE=$(IMAGE) $(BIN)/python -m tests.field azure

bench: setup ## the same build through goldsmith and packer; docs/reports/bench.md (packer is not installed by setup)
	@$(BIN)/python -m tests.bench.bench_build

doctor: setup ## is this host fit, and what would make it so
	@$(BIN)/goldsmith doctor

clean: ## remove scratch of dead runs and the tools' caches; masters and layers stay
	@if [ -x $(BIN)/goldsmith ]; then $(BIN)/goldsmith clean; fi
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build
