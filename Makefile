# make demo   the whole loop on real digits, one page at the end        make test      the test suite
# make lint   format, lint and type checks                              make coverage  the same, 85 % of lines or more
# make audit  known vulnerabilities of the dependencies                 make setup     only the environment
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(VENV)/bin/python
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test coverage lint audit schemas clean
.DELETE_ON_ERROR:

setup: $(VENV)/.runtime

# Each stamp is newer than pyproject.toml once its extras are installed, so nothing is installed twice.
$(VENV)/.runtime: pyproject.toml
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing flowfabric into $(VENV) (once; about a minute)"
	@$(PY) -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/.runtime
	@$(PY) -m pip install --quiet --editable '.[$*]'
	@touch $@

# The loop: train -> trace -> place -> train on under the placement -> simulate -> one page; beside it, methods compared.
RUN := runs/demo
CONFIG := configs/runs/digits_moe.yaml
LONGER := optim.steps=620 checkpoint.every=620 evaluate.every=null sample.every=null trace.steps=[] observe.log_every=1
METHODS := flow_matching ot_cfm weighted_cfm
SHORTER := optim.steps=200 optim.global_batch=256
TORCHRUN := $(PY) -m torch.distributed.run --standalone --nproc-per-node 2

demo: $(VENV)/.runtime
	@rm -rf $(RUN) $(RUN)_unplaced $(RUN)_placed
	@echo "1/8  train 600 steps on two ranks, experts shared between them, and record what they send and where tokens go"
	@$(PY) -m trainer check $(CONFIG) run.dir=$(RUN) --world-size 2 > /dev/null
	@$(TORCHRUN) -m trainer train $(CONFIG) run.dir=$(RUN)
	@echo "2/8  draw 16 images of each digit and judge them"
	@$(PY) -m trainer sample $(RUN) --num 160 --guidance 1.5 --out $(RUN)/samples/demo.png --quality $(RUN)/quality.json
	@echo "3/8  place the experts by where the tokens went, for 2 nodes x 1 rank"
	@$(PY) -m moe place $(RUN)/traces/routing.npz --nodes 2 --ranks-per-node 1 --out $(RUN)/placement.json --report $(RUN)/report/placement.html
	@$(PY) -m moe replay $(RUN)/traces/collectives.jsonl --routing $(RUN)/traces/routing.npz --placement $(RUN)/placement.json --dispatch home --out $(RUN)/traces/replayed.jsonl
	@echo "4/8  train on from the checkpoint, with the experts where they were and under the placement"
	@for kind in unplaced placed; do mkdir -p $(RUN)_$$kind && cp -r $(RUN)/checkpoints $(RUN)_$$kind/; done
	@$(TORCHRUN) -m trainer train $(CONFIG) run.dir=$(RUN)_unplaced $(LONGER)
	@$(TORCHRUN) -m trainer train $(CONFIG) run.dir=$(RUN)_placed $(LONGER) moe.placement=$(RUN)/placement.json
	@echo "5/8  write the collectives of one step of a run on 64 ranks, by formula"
	@$(PY) -m trainer trace configs/runs/dit_moe_64.yaml --world-size 64 --ranks-per-node 1 --out $(RUN)/traces/formula.jsonl
	@echo "6/8  replay that step on a leaf-spine fabric under seven transports"
	@$(PY) -m netsim compare configs/scenarios/demo.yaml --out $(RUN)/netsim
	@echo "7/8  compare three methods of flow matching on points in the plane, all at a time"
	@$(PY) -m trainer compare $(METHODS:%=configs/methods/%.yaml) $(SHORTER) --seeds 1 --jobs 3 --num 500 --evaluations 1,2,4,16 --out $(RUN)/comparison
	@echo "8/8  one page"
	@$(PY) -m trainer report $(RUN) --quality $(RUN)/quality.json --placement $(RUN)/placement.json \
	  --unplaced-run $(RUN)_unplaced --placed-run $(RUN)_placed --simulation $(RUN)/netsim --comparison $(RUN)/comparison \
	  --out $(RUN)/report/index.html

SUITE := pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not multinode and not slow'
NAMESPACES := pytest -m multinode tests/multinode

test: $(VENV)/.test
	@$(PY) -m $(SUITE)
	@$(PY) -m $(NAMESPACES)

coverage: $(VENV)/.test
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m $(SUITE)
	@$(PY) -m coverage run -m $(NAMESPACES)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report --fail-under=85

lint: $(VENV)/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m pyright

audit: $(VENV)/.dev
	@$(PY) -m pip_audit --skip-editable

schemas: $(VENV)/.runtime
	@$(PY) -c "$$WRITE_SCHEMAS"

define WRITE_SCHEMAS
import json, pathlib
from netsim.grid.sweep_file import SweepConfig
from netsim.scenario import Scenario
for name, model in ("scenario", Scenario), ("sweep", SweepConfig):
    text = json.dumps(model.schema(), indent=1) + "\n"
    pathlib.Path(f"configs/schemas/{name}.schema.json").write_text(text)
endef
export WRITE_SCHEMAS

clean:
	rm -rf $(VENV) runs .coverage* .pytest_cache .ruff_cache build *.egg-info
