# make setup      install everything into .venv (once); with METAWORLD=1, Meta-World too, with the MuJoCo that it requires
# make train      meta-train, on all cores: CONFIG=file  RANKS=n  ARGS='--overrides {"n_itr": 5} --dump_path out/run1'
# make test       the tests that are neither long nor slow; with LONG=1, the long ones too; make test-slow: the slow ones
# make test-fast  the tests of the mathematics; make lint
# make bench      measure speed; make soak: a long run, watched for leaks
# make reproduce  repeat a published table by its commands: TABLE=memory/gridnavi; without TABLE, list them

PYTHON ?= $(shell command -v python3.11 || command -v python3)
CONFIG ?= configs/point_env_momentum_dense.json
SCRIPT ?= run_scripts/mumo_run_point_mass.py
ARGS ?=
RANKS ?=
METAWORLD ?=
LONG ?=
TABLE ?=

VENV := .venv
READY := $(VENV)/.ready
WITH_METAWORLD := $(VENV)/.metaworld
MPI_SETUP := mmaml/launcher/install.py
KERNEL := mmaml/policies/kernel.c
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

# JSON that is not itself quoted is kept from the shell; run_scripts join the words of --overrides.
UNQUOTED = $(if $(findstring ',$(ARGS)),,$(findstring {,$(ARGS)))
QUOTED_ARGS = $(if $(UNQUOTED),$(subst {,\{,$(subst [,\[,$(subst ",\",$(ARGS)))),$(ARGS))

IN_TWO_PROCESSES := -n 2 --no-loadscope-reorder

.PHONY: setup train test test-fast test-slow lint bench soak reproduce

setup: $(READY) $(if $(METAWORLD),$(WITH_METAWORLD))

$(READY): requirements.txt pyproject.toml $(MPI_SETUP) $(KERNEL)
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(VENV)/bin/python $(MPI_SETUP)
	touch $@

$(WITH_METAWORLD): $(READY)
	$(VENV)/bin/python -m pip uninstall --yes mujoco mujoco-core mujoco-studio
	$(VENV)/bin/python -m pip install --disable-pip-version-check --no-build-isolation --editable ".[metaworld]"
	touch $@

train: $(READY)
	$(RUN) python $(SCRIPT) --config_file $(CONFIG) $(if $(RANKS),--ranks $(RANKS)) $(QUOTED_ARGS)

test: $(READY)
	$(RUN) python -m pytest $(IN_TWO_PROCESSES) -m "not $(if $(LONG),slow,(long or slow))"

test-fast: $(READY)
	$(RUN) python -m pytest $(IN_TWO_PROCESSES) -m "not (ranks or fuzz or learn or long or slow)"

test-slow: $(READY)
	$(RUN) python -m pytest -m slow

lint: $(READY)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports --no-logo --no-cache

bench: $(READY)
	@for benchmark in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/*.py)); do echo "== $$benchmark"; $(RUN) python $$benchmark || exit 1; done

soak: $(READY)
	$(RUN) python benchmarks/soak.py

reproduce: $(READY)
	$(RUN) python scripts/reproduce.py $(TABLE)
