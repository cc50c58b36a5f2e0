# make demo   the whole loop on real digits, one page at the end        make test      the test suite
# make demo-all  after that a policy, a language model that decodes and a comparison of methods, on the same page
# make lint   format, lint and type checks                              make coverage  the same, 85 % of lines or more
# make audit  known vulnerabilities of the dependencies                 make setup     only the environment
# make lock   newest versions that pyproject.toml allows, as constraints.txt; make release  sdist and wheel, checked
# make docs      READMEs, settings, the library and a gallery of pages as a site, runs/site/index.html
# make core      the compiled core again, after a change to its headers: half a minute of CPU, at first a whole one
VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --constraint constraints.txt
export OMP_NUM_THREADS ?= 1
# Hundreds of processes import the same files: compile them once, also where containers ask Python not to.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup lock release core demo demo-all test coverage lint audit schemas docs clean
.DELETE_ON_ERROR:

setup: $(VENV)/.runtime

# Each stamp is newer than the files that it is made of once its extras are installed, so nothing is installed twice.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "installing flowfabric[train] into $(VENV) (once; about a minute)"
	@$(INSTALL) --editable '.[train]'
	@touch $@

$(VENV)/.test $(VENV)/.dev: $(VENV)/.%: $(VENV)/.runtime
	@$(INSTALL) --editable '.[$*]'
	@touch $@

core: $(VENV)/.dev
	@echo 'builds the core: half a minute of CPU, at first a whole one'
	@$(PY) -m uv pip install --quiet --no-build-isolation --no-deps --editable .

# The loop: train -> trace -> place -> train on under the placement -> price -> one page; beside it a larger run on a fabric.
# `make demo-all` adds a policy that is rewarded, a language model that decodes with its experts placed, and methods compared.
RUN := runs/demo
MIXTURE := configs/runs/digits_moe.yaml optim.steps=450 moe.top_k=2 moe.dispatch=copies
LONGER := optim.steps=470 checkpoint.every=470 evaluate.every=null sample.every=null trace.steps=[467,468,469] observe.log_every=1
POLICY := "task={kind: grpo, base: $(RUN), reward: {kind: ink}, steps: 8, group: 12, clip: 0.01, kl: 0.01}" optim.steps=12 optim.global_batch=8 optim.lr=0.0006 \
  optim.warmup_steps=0 optim.ema_decay=0.9 checkpoint.every=12 evaluate.every=4 sample.every=12 sample.per_class=2 trace.steps=[2,3,4] observe.log_every=1
GPT := configs/runs/gpt_moe.yaml moe.dispatch=coherent model.hidden=64 "data={kind: text, path: $(RUN)_text, context: 64}" optim.steps=150 optim.global_batch=32 \
  checkpoint.every=150 evaluate.every=150 sample.every=null trace.steps=[148,149,150]
# Another run, on a fabric of its own.
OTHER := configs/runs/dit_moe_64.yaml model.hidden=256 moe.expert_hidden=1024 moe.num_experts=16 parallel.expert=16 optim.global_batch=128
FABRIC := topology.leaves=4 topology.spines=4 topology.hosts_per_leaf=4
TRANSPORTS := 'transports=[ecmp, spray_random, drb, ethereal, {kind: ethereal, order: staggered, label: ethereal-staggered}]'
METHODS := flow_matching ot_cfm weighted_cfm dtm
SHORTER := optim.steps=200 optim.global_batch=256
TORCHRUN := $(PY) -m torch.distributed.run --standalone --nproc-per-node 2 -m trainer
PLACE := $(PY) -m moe place --nodes 2 --ranks-per-node 1
DECODE := $(TORCHRUN) generate $(RUN)_gpt --prompts $(RUN)_gpt/prompts.txt --num-tokens 24 --out $(RUN)_gpt/texts.txt
PAGE := $(PY) -m trainer report $(RUN) --memory --unplaced-run $(RUN)_unplaced --placed-run $(RUN)_placed --out $(RUN)/report/index.html

demo: $(VENV)/.runtime
	@rm -rf $(RUN) $(RUN)_unplaced $(RUN)_placed
	@echo "1/9  predict the memory of a rank; train 450 steps on two ranks, experts shared between them, and record what they send and where tokens go"
	@$(PY) -m trainer check $(MIXTURE) run.dir=$(RUN) --world-size 2 | sed -n '/^memory of a rank/,/^a rank needs/p'
	@$(TORCHRUN) train $(MIXTURE) run.dir=$(RUN)
	@echo "2/9  draw 16 images of each digit and judge them"
	@$(PY) -m trainer sample $(RUN) --num 160 --guidance 1.5 --out $(RUN)/samples/demo.png --quality $(RUN)/quality.json
	@echo "3/9  search times for few steps, draw with four of them on two ranks, and record what drawing sends"
	@$(PY) -m trainer steps $(RUN) --evaluations 2,4 --nodes 40 --num 40 --fresh 200 --out $(RUN)/steps.json --page $(RUN)/report/steps.html
	@$(TORCHRUN) sample $(RUN) --num-samples 160 --steps $(RUN)/steps.json --evaluations 4 --out $(RUN)/samples/four_calls.png --trace $(RUN)/drawing
	@$(PY) -m trainer trace $(RUN)/config.yaml --world-size 2 --ranks-per-node 1 --sampling '{kind: euler, steps: 4}' \
	  --examples 80 --guidance 1.5 --out $(RUN)/drawing/formula.jsonl
	@echo "4/9  restore held-out digits with a hole, and turn others into other digits, without any training for it"
	@$(PY) -m trainer restore $(RUN) flair_inpainting label=own --num 12 --out $(RUN)/restored
	@$(PY) -m trainer edit $(RUN) rf_inversion targets=[3,8] --num 12 --out $(RUN)/edited
	@echo "5/9  place the experts by where the tokens went, for 2 nodes x 1 rank and the run's own dispatch, under a cap on the load"
	@$(PLACE) $(RUN)/traces/routing.npz --out $(RUN)/placement.json --report $(RUN)/report/placement.html
	@echo "6/9  train on from the checkpoint, with the experts where they were and under the placement, and record both"
	@for kind in unplaced placed; do mkdir -p $(RUN)_$$kind && cp -r $(RUN)/checkpoints $(RUN)_$$kind/; done
	@$(TORCHRUN) train $(MIXTURE) run.dir=$(RUN)_unplaced $(LONGER)
	@$(TORCHRUN) train $(MIXTURE) run.dir=$(RUN)_placed $(LONGER) moe.placement=$(RUN)/placement.json
	@echo "7/9  price the placement: replay, and simulate before and after where the link between the nodes is the bottleneck"
	@$(PY) -m moe price $(RUN)_unplaced/traces/collectives.jsonl --routing $(RUN)_unplaced/traces/routing.npz \
	  --placement $(RUN)/placement.json --scenario configs/scenarios/two_nodes.yaml --out $(RUN)/price
	@echo "8/9  another run, of 16 ranks: its collectives by formula, replayed on a leaf-spine fabric"
	@$(PY) -m trainer trace $(OTHER) --world-size 16 --ranks-per-node 1 --out $(RUN)/traces/formula.jsonl
	@$(PY) -m netsim compare configs/scenarios/demo.yaml $(FABRIC) $(TRANSPORTS) --out $(RUN)/netsim
	@echo "9/9  one page"
	@$(PAGE)

demo-all: demo
	@rm -rf $(RUN)_policy $(RUN)_gpt $(RUN)_text
	@echo "1/4  go on from the run as a policy: what it draws is rewarded for its ink, on both ranks, with the experts that it drew with"
	@$(TORCHRUN) train $(MIXTURE) run.dir=$(RUN)_policy $(POLICY)
	@echo "2/4  this checkout as shards of text, a small language model that learns it, and decodes with its experts where they were and placed"
	@$(PY) -m trainer encode-text trainer moe netsim --ending .py --held-out 0.05 --out $(RUN)_text
	@$(TORCHRUN) train $(GPT) run.dir=$(RUN)_gpt
	@$(PLACE) $(RUN)_gpt/traces/routing.npz --out $(RUN)_gpt/placement.json
	@$(PY) -c "$$WRITE_PROMPTS" $(RUN)_gpt/prompts.txt
	@$(DECODE) --record $(RUN)_gpt/decoding/contiguous
	@$(DECODE) --record $(RUN)_gpt/decoding/placed --placement $(RUN)_gpt/placement.json
	@echo "3/4  compare four methods of flow matching on points in the plane, all at a time"
	@$(PY) -m trainer compare $(METHODS:%=configs/methods/%.yaml) $(SHORTER) --seeds 1 --jobs 3 --num 500 --evaluations 1,2,4,16 --out $(RUN)/comparison
	@echo "4/4  one page"
	@$(PAGE) --policy $(RUN)_policy --decoding $(RUN)_gpt/decoding

# Beginnings of functions and classes of Python's own library, a line each.
define WRITE_PROMPTS
import pathlib, re, sys, sysconfig
lines = {}
for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
    found = re.findall(r"(?m)^(?:def|class) \w+\(.*", path.read_text(errors="replace"))
    lines |= dict.fromkeys(line[:32].rstrip() for line in found[:3])
pathlib.Path(sys.argv[1]).write_text("\n".join(list(lines)[:192]) + "\n")
endef
export WRITE_PROMPTS

# Three processes on two cores, since those that wait for their ranks leave a core idle. What measures the kernel's
# network runs alone.
KERNEL := tests/multinode/test_reality.py
SUITE := pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m 'not slow' --ignore $(KERNEL)

test: $(VENV)/.test
	@$(PY) -m $(SUITE)
	@$(PY) -m pytest $(KERNEL)

coverage: $(VENV)/.test
	@$(PY) -m coverage erase
	@$(PY) -m coverage run -m $(SUITE)
	@$(PY) -m coverage run -m pytest $(KERNEL)
	@$(PY) -m coverage combine --quiet
	@$(PY) -m coverage report --fail-under=85

CORE = $(wildcard netsim/engine/core/*.[ch]pp netsim/engine/core/*/*.hpp moe/placement/solver/core/*.[ch]pp)
# pyright holds up to 6 GB; within the 4 GB that Node allows it, it collects garbage for a third of its time. Two threads
# take 0.7 times as long as one.
lint: export NODE_OPTIONS := --max-old-space-size=8192
lint: $(VENV)/.dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(VENV)/bin/clang-format --dry-run -Werror $(CORE)
	@$(PY) -m pyright --threads 2

# A package that cannot be looked up fails as a vulnerability does; this project alone, which is editable, is left out.
audit: $(VENV)/.dev
	@$(PY) -m pip_audit --strict --skip-editable

# One file for every Python. torch names its own CUDA packages exactly, which differ with the CUDA of its index; hashes
# would rule out all indexes but one.
lock: $(VENV)/.dev
	@echo '# Exact versions for every Python; written by `make lock`. pip reads it with --constraint.' > constraints.part
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-header --no-annotate pyproject.toml \
	  | sed --regexp-extended "/^((nvidia|cuda)-|triton=)/d; s/ (;|and) sys_platform == 'linux'$$//" >> constraints.part
	@mv constraints.part constraints.txt

release: $(VENV)/.dev
	@rm -rf dist
	@$(PY) -m build --outdir dist
	@$(PY) -m twine check --strict dist/*

# JSON Schemas of run configurations, scenarios and sweeps, and configs/README.md, from the models that read the files.
schemas: $(VENV)/.runtime
	@$(PY) -m tests.reference

# The first time it also runs the commands of the gallery, about three minutes.
docs: $(VENV)/.dev
	@$(PY) -m mkdocs build --quiet --config-file configs/mkdocs.yml

clean:
	rm -rf $(VENV) runs .coverage* .pytest_cache .ruff_cache build *.egg-info
