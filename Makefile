# The newcomer's commands. CI runs them too, so that what passes here passes there.
#
# Everything lives in the tree: the virtual environments in .venv/, Rust's output and the
# wheel of this machine in target/. What is tested is always the wheel, installed, never the source folder; a
# stamp file says that a step is up to date, so that asking again costs next to nothing.
#
# `make PYTHON=python3.9 test` uses another Python than python3 (.venv is then made anew).

PYTHON ?= python3

VENV := .venv
CREATED := $(VENV)/.made-by-$(subst /,_,$(PYTHON))
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check
MATURIN := $(VENV)/bin/python -m maturin

BUILT := target/wheel
WHEEL := $(BUILT)/*-cp38-abi3-*.whl
WHEEL_SOURCES := pyproject.toml $(wildcard .cargo/config.toml Cargo.toml Cargo.lock README.md LICENSE-*) \
	$(shell find rust python \
		\( -name __pycache__ -o -name tests -o -name benches -o -name examples -o -name fuzz \) \
		-prune -o \( -type d -o -type f \) -print)

# The binding is a Python extension: it links only inside a Python, so cargo cannot run its tests.
RUST_TESTS := --workspace --exclude jobserver-python

# How long to fuzz, and how to build for it: with what `cargo fuzz` passes to rustc so that the
# fuzzer sees which code its inputs reach, but without the sanitizers, which only a nightly Rust
# has. (A target is named so that cargo spares its build scripts these flags.)
FUZZ_SECONDS ?= 60
FUZZ_RUSTFLAGS := --cfg fuzzing -Ccodegen-units=1 -Cpasses=sancov-module \
	$(addprefix -Cllvm-args=-sanitizer-coverage-,level=4 inline-8bit-counters pc-table trace-compares)
FUZZ_CORPUS := rust/fuzz/corpus/makeflags
FUZZ_ARTIFACTS := rust/fuzz/artifacts/makeflags

# How many processes to kill by each start method, and where to begin.
CHAOS_KILLS ?= 1200
CHAOS_SEED ?= 1

# What `make bench` was told: which scenarios, how many rounds at most; QUICK=1 shows that it works.
BENCH_SAID = $(foreach name,SCENARIOS ROUNDS QUICK,$(if $($(name)),$(name)='$($(name))'))

# What only `make bench` measures, and can do without.
SYSTEMS := $(VENV)/ray/.tried $(VENV)/dask/.tried

# What differs on the portable path: how ends are noticed, waited for and watched. (Of orphans, that
# nothing is left of them: that they end at once is Linux's.)
PORTABLE_TESTS := $(patsubst %,tests/test_%.py, \
	basics results deaths forkserver close threads kill limits large namespaces) \
	tests/test_orphans.py::test_nothing_is_left_of_a_killed_owner_when_its_jobs_are_done

# What might differ where a process has many jobs.
WARM_TESTS := $(patsubst %,tests/test_%.py,deaths forkserver kill limits slots nesting interrupts close orphans)

# The last mypys for Pythons before 3.10 take names that only type checkers import for missing:
# there, only the module that has a stub is compared with it.
STUBTESTED = $(shell $(VENV)/bin/python -c \
	'import sys; print("jobserver" if sys.version_info >= (3, 10) else "jobserver._native")')

# Our tests are about MAKEFLAGS and its kin: they must not see those of the make that runs them.
# (make sets MAKELEVEL again for each command, hence `env -u`.)
unexport MAKEFLAGS MFLAGS GNUMAKEFLAGS MAKE_TERMOUT MAKE_TERMERR CARGO_MAKEFLAGS
RUN := env -u MAKELEVEL -u MAKEOVERRIDES
RUN_PYTHON := $(RUN) $(VENV)/bin/python

# Nor may they see another copy of the package, or have their path chosen for them; nor compile
# their modules anew in each of thousands of interpreters.
unexport PYTHONPATH PYTHONHOME JOBSERVER_PORTABLE PYTHONDONTWRITEBYTECODE

# PyO3 asks this Python what to build for; left to itself it would look for one.
export PYO3_PYTHON := $(PYTHON)

heading = @printf '\n== %s ==\n' "$(1)"

.DEFAULT_GOAL := help
# The steps are in order, cheapest first, except those of `make test` that run side by side: of the
# lints each waits for the one that it needs, and of the tests the longest come first, so that the
# last to end are short.
LINTS := fmt clippy ruff types targets crates

# The tests are in parts, so that several processes share them. Each part is a plain pytest, in which
# the tests are the program's only thread, as its users' programs are. (The workers of pytest-xdist
# have a thread more. It takes signals that a test expects in its own.)
PYTEST_PARTS := pytest-a-d pytest-e-l pytest-m-o pytest-p-z
SIDE_BY_SIDE := every-python $(PYTEST_PARTS) joblib-versions joblib-own pytest-warm pytest-portable \
	rust-test bench-works doc examples

# Older joblibs that the backend says it can be used with, besides the newest, which is installed:
# the oldest. (`make joblib-versions JOBLIBS="1.3.2 1.4.2 1.5.2"` tests each, in two minutes.)
JOBLIBS := 1.3.2

# How many steps run at a time: as many as there are CPUs for us.
AT_A_TIME ?= $(shell nproc 2> /dev/null || echo 2)

# What each step took.
TIMES := target/times

ifndef TESTING
.NOTPARALLEL:
endif
.PHONY: help demo test lint bench bench-sizes chaos fuzz wheel clean \
	tools fmt clippy targets crates ruff types pytest $(SIDE_BY_SIDE) model newer

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.wheel ## set up, build, and run the main example on this Python's standard library
	$(call heading,examples/ex9_tree.py)
	@$(RUN_PYTHON) examples/ex9_tree.py

# (What a step prints appears when it has ended. It sees its own arguments only, not make's.)
SIDES = $(RUN) $(MAKE) --no-print-directory --jobs=$(AT_A_TIME) --output-sync=target \
	TESTING=1 PYTHON='$(PYTHON)'
test: tools $(VENV)/.dev $(VENV)/.bench ## run every check that CI runs
	@: > $(TIMES); start=$$(date +%s); \
	$(SIDES) $(LINTS:%=timed-%) && \
		$(SIDES) --keep-going $(SIDE_BY_SIDE:%=timed-%); code=$$?; \
	printf '\n== what the steps took ==\n'; cat $(TIMES); \
	echo "$$(($$(date +%s) - start)) s for all of them, $(AT_A_TIME) at a time"; exit $$code
	@printf '\nAll checks passed.\n'

# (By another name, since make would not collect what a make prints.)
SUB_MAKE := $(MAKE)
timed-%:
	@start=$$(date +%s); $(RUN) $(SUB_MAKE) --no-print-directory TESTING=1 PYTHON='$(PYTHON)' $*; code=$$?; \
		took=$$(($$(date +%s) - start)); echo "($* took $$took s)"; \
		failed=; test $$code = 0 || failed=' FAILED'; \
		printf '%5d s  %s%s\n' $$took $* "$$failed" >> $(TIMES); exit $$code

# The order of steps of which one uses what another has built; alone, such a step has it built.
ifdef TESTING
timed-crates: timed-clippy
else
crates: clippy
endif

lint: fmt clippy targets crates doc ruff types ## the checks that run none of our code

bench: $(VENV)/.bench $(SYSTEMS) $(VENV)/numeric/.made ## ours and the peers side by side: some 20 minutes (SCENARIOS="fork warm" ROUNDS=5: less)
	$(call heading,benchmarks/bench.py)
	@$(RUN) cargo bench --quiet --package jobserver-core --bench floor --no-run
	@BENCH_COMMAND="$(strip make bench $(BENCH_SAID))" $(RUN_PYTHON) benchmarks/bench.py \
		$(if $(SCENARIOS),--only $(SCENARIOS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(QUICK),--quick)
	$(if $(SCENARIOS),,$(call heading,benchmarks/scikit_learn.py))
	$(if $(SCENARIOS),,@$(RUN) $(VENV)/numeric/bin/python benchmarks/scikit_learn.py \
		$(if $(QUICK),--rounds 1,$(if $(ROUNDS),--rounds $(ROUNDS))))

bench-numeric: $(VENV)/numeric/.made ## NumPy and scikit-learn, by jobs and by joblib's backends: some 15 minutes (ROUNDS=3: less)
	$(call heading,benchmarks/numeric.py)
	@$(RUN) $(VENV)/numeric/bin/python benchmarks/numeric.py $(if $(ROUNDS),--rounds $(ROUNDS))
	$(call heading,benchmarks/scikit_learn.py)
	@$(RUN) $(VENV)/numeric/bin/python benchmarks/scikit_learn.py $(if $(ROUNDS),--rounds $(ROUNDS))

bench-sizes: $(VENV)/.bench $(SYSTEMS) ## nested trees of 127 to 16,383 jobs, of ours, Ray and Dask: some 20 minutes (JOBS="127 1023": less)
	$(call heading,benchmarks/tree_sizes.py)
	@$(RUN_PYTHON) benchmarks/tree_sizes.py $(if $(JOBS),--jobs $(JOBS))

chaos: $(VENV)/.dev ## kill processes of trees of jobs at random, CHAOS_KILLS (1200) each way
	$(call heading,chaos)
	@for method in fork forkserver; do for tasks in 1 0; do \
		$(RUN_PYTHON) tests/chaos.py --method $$method --tasks $$tasks \
			--kills $(CHAOS_KILLS) --seed $(CHAOS_SEED) || exit 1; \
	done; done

fuzz: tools ## look for inputs that break the reader of MAKEFLAGS, for FUZZ_SECONDS (60)
	@sh scripts/check_tools.sh fuzz
	$(call heading,fuzzing MAKEFLAGS for $(FUZZ_SECONDS) s)
	@mkdir -p $(FUZZ_CORPUS) $(FUZZ_ARTIFACTS)
	@RUSTFLAGS="$(FUZZ_RUSTFLAGS)" $(RUN) cargo run --release --target "$$(rustc --print host-tuple)" \
		--manifest-path rust/fuzz/Cargo.toml --target-dir target/fuzz --bin makeflags -- \
		-max_total_time=$(FUZZ_SECONDS) -max_len=256 -dict=rust/fuzz/makeflags.dict \
		-artifact_prefix=$(FUZZ_ARTIFACTS)/ $(FUZZ_CORPUS)

wheel: $(VENV)/.release ## build what is to be published, in dist/: one abi3 wheel (TARGET=...), and sources
	$(call heading,building dist/)
	@PATH="$$PWD/$(VENV)/bin:$$PATH" PYTHON=$(VENV)/bin/python $(RUN) sh scripts/build_wheel.sh $(TARGET)

newer: $(BUILT)/.made ## the tests on Debian unstable's CPythons, make, ninja and gcc (needs root; 20 min)
	$(call heading,Debian unstable)
	@$(RUN) sh scripts/newer.sh $(WHEEL)

model: ## verify the slot protocol with the SPIN model checker (its own needs: spin and cc)
	$(call heading,model/run.py)
	@$(PYTHON) model/run.py

clean: ## remove everything that these commands made
	rm -rf $(VENV) .newer dist target .mypy_cache .pytest_cache .ruff_cache
	cd rust/fuzz && rm -rf target corpus artifacts coverage
	find python tests examples benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +

# The steps of `make test`, each of which can be asked for alone.

tools:
	@sh scripts/check_tools.sh build $(PYTHON)

fmt: tools ## Rust: formatting
	$(call heading,cargo fmt)
	@sh scripts/check_tools.sh lint
	@cargo fmt --all --check
	@cargo fmt --manifest-path rust/fuzz/Cargo.toml --check

clippy: tools ## Rust: lints
	$(call heading,cargo clippy)
	@sh scripts/check_tools.sh lint
	@cargo clippy --workspace --all-targets -- -D warnings

targets: tools ## Rust: the crates compile for other Unixes, where this machine can check that
	$(call heading,other Unixes)
	@sh scripts/check_targets.sh

crates: tools ## Rust: the crates can be published
	$(call heading,cargo package)
	@sh scripts/check_crates.sh

# (A test that waits for ever must not hold up the whole; where there is no `timeout`, it does.)
IN_TIME := $(if $(shell command -v timeout),timeout 900)
rust-test: tools ## Rust: tests, on Linux's path and on the portable one
	$(call heading,cargo test)
	@$(RUN) $(IN_TIME) cargo test $(RUST_TESTS)
	$(call heading,cargo test on the portable path)
	@$(RUN) JOBSERVER_PORTABLE=1 $(IN_TIME) cargo test $(RUST_TESTS)
	$(call heading,cargo check with nothing of Linux compiled in)
	@RUSTC_WORKSPACE_WRAPPER=scripts/rustc_portable.sh cargo check $(RUST_TESTS) --all-targets

doc: tools ## Rust: documentation
	$(call heading,cargo doc)
	@RUSTDOCFLAGS="-D warnings" cargo doc $(RUST_TESTS) --no-deps

ruff: $(VENV)/.dev ## Python: lints and formatting
	$(call heading,ruff)
	@$(RUN_PYTHON) -m ruff check
	@$(RUN_PYTHON) -m ruff format --check

types: $(VENV)/.dev ## Python: types, and the stub against the built module
	$(call heading,mypy --strict)
	@$(RUN_PYTHON) -m mypy
	$(call heading,stubtest of the installed wheel)
	@$(RUN_PYTHON) -m mypy.stubtest --mypy-config-file pyproject.toml \
		--allowlist scripts/stubtest_allowlist.txt --ignore-unused-allowlist $(STUBTESTED)

pytest: $(VENV)/.dev ## Python: all tests
	$(call heading,pytest)
	@$(RUN_PYTHON) -m pytest

$(PYTEST_PARTS): pytest-%: $(VENV)/.dev
	$(call heading,pytest $*)
	@$(RUN_PYTHON) -m pytest tests/test_[$*]*.py

pytest-warm: $(VENV)/.dev ## Python: the tests of what may differ over processes that stay
	$(call heading,pytest over processes that stay)
	@$(RUN_PYTHON) -m pytest --warm -m "not slow" -k "not spawn" $(WARM_TESTS)

pytest-portable: $(VENV)/.dev ## Python: the tests of what differs on the portable path
	$(call heading,pytest on the portable path)
	@$(RUN) JOBSERVER_PORTABLE=1 $(VENV)/bin/python -m pytest -m "not slow" -k "not spawn" \
		$(PORTABLE_TESTS)

joblib-own: $(VENV)/.dev ## Python: joblib's own tests of Parallel, over our backend
	$(call heading,joblib's own tests)
	@$(RUN_PYTHON) tests/foreign/joblib_parallel.py

joblib-versions: $(VENV)/.dev $(JOBLIBS:%=$(VENV)/joblib/%/.made) ## Python: our tests of the backend, with older joblibs
	@for version in $(JOBLIBS); do \
		printf '\n== joblib %s ==\n' $$version; \
		PYTHONPATH=$(VENV)/joblib/$$version $(RUN_PYTHON) -m pytest tests/test_joblib.py tests/test_joblib_threads.py || exit 1; \
	done

examples: $(VENV)/.dev ## Python: each example, as it stands
	$(call heading,examples)
	@$(RUN_PYTHON) scripts/run_examples.py

bench-works: $(VENV)/.bench ## Python: the benchmark still works; nothing is asserted of its figures
	$(call heading,benchmarks/bench.py --quick)
	@$(RUN_PYTHON) benchmarks/bench.py --quick --only fork warm map tree scan import

every-python: $(VENV)/.wheel ## Python: the wheel on every CPython 3.8 to 3.15 of this machine
	$(call heading,the wheel on every CPython found)
	@$(RUN_PYTHON) scripts/every_python.py $(WHEEL)

# What the steps stand on.

# pip of an old Python does not know the wheel's platform tag: hence the upgrade. tqdm is the
# demo's progress bar, and all that a demo needs beside the wheel.
$(CREATED): | tools
	$(call heading,setting up $(VENV))
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --upgrade pip
	@$(PIP) install 'maturin>=1.9,<2' tqdm
	@touch $@

# The stamp is as old as the build's start, lest a source that changed meanwhile be missed.
$(BUILT)/.made: $(WHEEL_SOURCES) | $(CREATED)
	$(call heading,building the wheel)
	@rm -rf $(BUILT) && mkdir -p $(BUILT) && touch $(BUILT)/.begun
	@$(RUN) $(MATURIN) build --release --interpreter $(VENV)/bin/python --out $(BUILT)
	@ls $(WHEEL) >/dev/null
	@mv $(BUILT)/.begun $@

$(VENV)/.wheel: $(BUILT)/.made $(CREATED)
	@$(PIP) install --force-reinstall --no-deps $(WHEEL)
	@touch $@

$(VENV)/.dev: $(VENV)/.wheel
	$(call heading,installing what the tests and checks use)
	@$(PIP) install "$$(echo $(WHEEL))[test,dev]"
	@touch $@

$(VENV)/.release: $(CREATED)
	$(call heading,installing what builds wheels for old systems)
	@$(PIP) install 'maturin[zig]>=1.9,<2' auditwheel
	@touch $@

# PyPI's jobserver has our import name, so it has an environment of its own.
$(VENV)/peer/.made: $(CREATED)
	$(call heading,setting up $(VENV)/peer: the jobserver of PyPI)
	@$(PYTHON) -m venv --clear $(VENV)/peer
	@$(VENV)/peer/bin/python -m pip --quiet --disable-pip-version-check install jobserver==3.0.1 numpy
	@touch $@

# Ray and Dask have an environment each, since both bring much that others need in other versions. Where
# they cannot be installed (these versions need CPython 3.10), `make bench` measures without them, and says so.
$(VENV)/ray/.tried: SYSTEM := ray==2.60.0
$(VENV)/dask/.tried: SYSTEM := distributed==2026.8.0
$(SYSTEMS): $(VENV)/%/.tried: $(CREATED)
	$(call heading,setting up $(VENV)/$*: $(SYSTEM))
	@$(PYTHON) -m venv --clear $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip --quiet --disable-pip-version-check install $(SYSTEM) || \
		{ echo "$(SYSTEM) cannot be installed: it is left out" >&2; rm -rf $(VENV)/$*; mkdir $(VENV)/$*; }
	@touch $@

$(VENV)/joblib/%/.made: $(CREATED)
	@$(PIP) install --no-deps --upgrade --target $(@D) joblib==$*
	@touch $@

# So has scikit-learn, which brings much.
$(VENV)/numeric/.made: $(VENV)/.wheel
	$(call heading,setting up $(VENV)/numeric: scikit-learn)
	@$(PYTHON) -m venv --clear $(VENV)/numeric
	@$(VENV)/numeric/bin/python -m pip --quiet --disable-pip-version-check install $(WHEEL) scikit-learn==1.7.2
	@touch $@

$(VENV)/.bench: $(VENV)/.wheel $(VENV)/peer/.made
	$(call heading,installing the peers)
	@$(PIP) install "$$(echo $(WHEEL))[bench]"
	@touch $@
