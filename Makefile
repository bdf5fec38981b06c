# make table1   regenerate DDIP's Table 1 (sets everything up first)
# make test     run the tests
#
# Elsewhere than here: make table1 LAUNCHER=slurm JOBS=8 (docs/cluster.md)
PYTHON   ?= python3
VENV     ?= .venv
DOCS     ?= .venv-docs
DATASET  ?=
VICTIM   ?=
N        ?=
LAUNCHER ?=
JOBS     ?= 4
ARGS     ?=
purifier ?= jpeg

READY    := $(VENV)/.ready
RUN      := $(VENV)/bin/python -m
OPTIONS   = $(if $(DATASET),dataset=$(DATASET)) $(if $(VICTIM),victim=$(VICTIM)) $(if $(N),n=$(N)) $(ARGS)
SENT      = hydra/launcher=$(LAUNCHER) "shard=range($(JOBS))"
# With a launcher, its jobs fill the store, and then the table shows what the store holds. Status 1 is failed cells.
TABLE     = $(if $(LAUNCHER),{ $(RUN) runners.table --multirun table=$(1) $(SENT) $(OPTIONS) || test $$? -eq 1; } &&) \
	$(RUN) runners.table table=$(1) $(if $(LAUNCHER),hydra/launcher=$(LAUNCHER) $(OPTIONS) workers=0,$(OPTIONS))

.PHONY: help table1 table2 compare list tables report leaderboard claims status retry smoke test test-avx2 test-slow test-slurm \
	test-faults weights bench bench-table \
	bench-report test-gpu bench-gpu check docs clean
help:            ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+: .*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

table1: $(READY) ## DDIP Table 1: accuracy (DATASET= VICTIM= N= ARGS=)
	@$(call TABLE,ddip/table1)

table2: $(READY) ## DDIP Table 2: SSIM, of the same cells
	@$(call TABLE,ddip/table2)

# make ncis-table1, make ride-table2 and so on, with the same variables as table1.
TABLES   := $(patsubst configs/table/%.yaml,%,$(wildcard configs/table/*/*.yaml))
.PHONY: $(subst /,-,$(TABLES))
define table_target
$(subst /,-,$(1)): $$(READY)
	@$$(call TABLE,$(1))
endef
$(foreach table,$(TABLES),$(eval $(call table_target,$(table))))

comma    := ,
TABLE    ?= ddip/table1
compare: $(READY) ## a table with rows for other purifiers (PURIFIER=gamma or "gamma power=2,jpeg"; TABLE=ncis/table1)
	@test -n "$(PURIFIER)" || { echo "make compare: name a purifier, such as PURIFIER=jpeg" >&2; exit 2; }
	@$(RUN) runners.table table=$(TABLE) "rows=['$(subst $(comma),'$(comma)',$(PURIFIER))']" $(OPTIONS)

list: $(READY)   ## every table of the five papers, with its cost (make ncis-table1, make ride-table2, ...)
	@$(RUN) scripts.tables list

tables: $(READY) ## all of them on the embedded data: hours
	@$(RUN) scripts.tables run

report: $(READY) ## a page for every finished table, plots as PNG and PDF, into results/report/
	@$(RUN) runners.report $(ARGS)

leaderboard: $(READY) ## the pages of the leaderboard from its entries, into results/leaderboard/
	@$(RUN) runners.leaderboard $(ARGS)

claims: $(READY) ## the verdict on every claim of the papers, from finished tables; written into docs/findings.md
	@$(RUN) runners.claims findings=docs/findings.md $(ARGS)

# RIDE's full run takes minutes for any number of images, so here it has 50 iterations a checkpoint.
smoke: $(READY)  ## one purifier on four embedded images (purifier=ddip)
	@$(RUN) runners.evaluate purifier=$(purifier) n=4 chunk=4 \
	  $(if $(filter ride%,$(purifier)),purifier.trace.iterations=50) $(ARGS)

test: $(READY)   ## the tests, in five to six minutes on two cores
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
	@$(RUN) pytest -n 2 --dist worksteal

test-avx2: $(READY) ## the tests that compare to the bit, as on a CPU without AVX-512
	@ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(RUN) pytest -n 2 \
	  tests/test_engine.py tests/test_grid.py tests/test_estimate.py tests/test_replay.py tests/test_layout.py

test-slow: $(READY) ## those that take many seconds each, in some five minutes
	@$(RUN) pytest -m slow -n 2

status: $(READY) ## how far each table is: done, running, failed, missing, time left
	@$(RUN) runners.store status

retry: $(READY) ## run again every table that has failed chunks (LAUNCHER= JOBS= ARGS=)
	@$(RUN) runners.store retry $(if $(LAUNCHER),$(SENT)) $(ARGS)

test-slurm: $(READY) ## tables and sweeps through a real Slurm; says what is missing where there is none
	@$(RUN) pytest -m slurm -rs -n 0

test-faults: $(READY) ## SIGKILL, full disks, dead hosts, lost memory: figures of docs/reliability.md, in some 20 minutes
	@$(RUN) pytest -m faults -rs -n 0

weights: $(READY) ## train again the weights that come with the project, in some ten minutes
	@$(RUN) scripts.ship

bench: $(READY)  ## time the engine beside other ways, and every purifier, into results/bench/
	@$(RUN) scripts.bench_engine && $(VENV)/bin/python -m scripts.bench_purifiers

bench-table: $(READY) ## time Table 1 from an empty and from a full store, into results/bench/
	@$(RUN) scripts.bench_table table=ddip/table1 $(OPTIONS)

bench-report: $(READY) ## time the page of 90 cells of 1,000 images, into results/bench/
	@$(RUN) scripts.bench_report

test-gpu: $(READY) ## that everything is right on a CUDA device, each step with its own time limit; results/bench/cuda/
	@$(RUN) scripts.on_gpu test

bench-gpu: $(READY) ## how fast it is there, by steps, the most telling first (docs/gpu.md)
	@$(RUN) scripts.on_gpu bench

check: $(READY)  ## format and lint
	@$(VENV)/bin/ruff format . && $(VENV)/bin/ruff check --fix .

docs:            ## build this documentation as a site into site/, and check its links
	@test -d $(DOCS) || { $(PYTHON) -m venv $(DOCS) && \
	  $(DOCS)/bin/pip install --quiet --disable-pip-version-check -r docs/requirements.txt; }
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --strict && \
	  echo "written: site/index.html; its search needs a server: $(PYTHON) -m http.server -d site"

clean:           ## remove the environments and the built documentation; results stay
	rm -rf $(VENV) $(DOCS) site

# The tested versions, so that a table can be regenerated with what made it.
$(READY): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  f"Python 3.11 or newer is needed, {sys.executable} is {v[0]}.{v[1]}; make PYTHON=python3.12 ...")'
	@echo "setting up $(VENV) (once; PyTorch is some 3 GB to download)"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
