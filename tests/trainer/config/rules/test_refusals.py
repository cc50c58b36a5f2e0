"""What does not go together in a run: one line each, the first of all objections, with what to change."""

from pathlib import Path

import pytest

from netsim.foundation.refusal import Refusal
from tests.each import rows
from tests.trainer.config.rules.runs import RUNS, changed, write_files
from trainer.config.layout import Layout
from trainer.config.rules.plan import plan_layout, validated_layout

REFUSED = """
experts x 4 | optim.global_batch=50 | optim.global_batch: 50 | 48 or 52
experts x 4 | optim.global_batch=3 | optim.global_batch: 3 | use 4
experts | optim.micro_batch=5 | optim.global_batch: 48 | 40 or 50
experts | moe.num_experts=7 | moe.num_experts: 7 | use 8
experts x 4 | moe.num_experts=2 & parallel.expert=4 | moe.num_experts: 2 | use 4
experts x 6 | parallel.expert=4 | parallel.expert: 4 | 1, 2, 3, 6
experts | parallel.expert=4 | parallel.expert: 4 | multiple of 4
experts | moe=null | parallel.expert: 2 | use 1
experts | engine.zero_stage=3 | engine.zero_stage: 3 | 0, 1 or 2
experts | engine.compile=true | engine.compile: true | dense model
experts | engine={compile: true, zero_stage: 3} & moe=null & parallel.expert=1 | engine.compile: | ZeRO 3 | 0, 1 or 2
experts | engine.kind=fsdp | engine.kind: fsdp | use deepspeed
experts | engine.compile=true & moe=null & parallel={expert: 1, tensor: 2} | engine.compile: true | parallel.tensor=1
experts | engine={zero_stage: 0, precision: bf16} | engine.precision: bf16 | 1 to 3
experts | model.patch_size=3 | model.patch_size: 3 | 1, 2, 4, 8
experts | model.patch_size=16 | model.patch_size: 16 | 1, 2, 4, 8
experts | sample={every: 5, sampler: {kind: dopri5}} | sample.sampler.kind: dopri5 | heun
experts | sample={every: 5, sampler: {kind: segmented, within: {kind: dopri5}}} | sample.sampler.kind: | dopri5 | heun
experts | moe.dispatch=coherent | moe.dispatch: coherent | dit | ; use home or copies, or a gpt model
experts | moe={num_experts: 8, expert_hidden: 16, dispatch: capped, router: {kind: top_k}} | moe.dispatch: capped
| moe.router.capacity_factor null sets no limit; set one | , or use dispatch home
experts | moe={num_experts: 8, expert_hidden: 16, dispatch: capped, router: {kind: sinkhorn}} | moe.dispatch: capped
| moe.router.kind sinkhorn has no limit; use sparse_ot | , or dispatch home
experts | moe.dispatch=capped & moe.router={kind: sparse_ot, potentials: global} | moe.dispatch: capped
| moe.router.potentials global | ; use potentials rank | , or dispatch home
experts | moe.dispatch=capped & moe.router.kind=sparse_ot & moe.migration.every=5 | moe.migration.every: 5
| ; leave moe.migration out, or use dispatch home
experts x 12 | moe.dispatch=hierarchical & parallel.expert=4 & trace.ranks_per_node=3 | parallel.expert: 4
| nodes of 3 ranks | ; use a multiple of 3, or dispatch
text | engine.compile=true | engine.compile: true | a dit
text | data.context=65 | data.context: 65 | use at most 64
text | sample={every: 1, prompts: ['def ', x]} | sample.num_tokens: 100 | at most 60
text | sample={every: 1, prompts: [ééééééééééééééééééééééééééééééé], num_tokens: 3} | sample.num_tokens: | 62
| at most 2
text | sample={every: 1, prompts: [aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]}
| sample.num_tokens: | 64 | shorter
text | moe.dispatch=coherent & moe.router={kind: top_k, capacity_factor: 1.5} | moe.router.capacity_factor: 1.5
| without capacity_factor
text | moe.dispatch=coherent & moe.router.kind=expert_choice | moe.router.kind: expert_choice | top_k
images x 4 | parallel.tensor=3 | parallel.tensor: 3 needs a multiple of 3 ranks, and there are 4; use one of 1, 2, 4, or
| start 3 ranks
images x 8 | parallel.tensor=8 | do not divide model.num_heads 4
images x 2 | parallel.tensor=2 & moe={num_experts: 4, expert_hidden: 8} | to the experts 2 times
images x 2 | parallel.tensor=2 & model.feed_forward_hidden=33 | model.feed_forward_hidden 33
images x 2 | parallel.tensor=2 & model={kind: gpt, num_kv_heads: 1} | model.num_kv_heads 1
images x 2 | parallel.pipeline=2 | through all of them; use 1
images x 2 | parallel.context=2 | whole sequences of its rank; use 1
images | model.hidden=16 & flow.objective={kind: aligned, teacher: t} | which a dit model lacks
images | flow.coupling.kind=ends | flow.coupling.kind: ends begins at atoms of a reaction, and digits data
images | flow={path: {kind: gumbel_softmax}, target: {kind: token}, objective: {kind: cross_entropy}}
| flow.path.kind: gumbel_softmax is of one-hot letters, and digits data
images | sample.kind=sequences | sample.kind: sequences, and the data are no sequences but digits
images | flow.target.kind=v_prediction | flow.target.kind: v_prediction does not go with flow.path.kind linear
| use flow.target.kind velocity, data, noise or score,
| or flow.path.kind trigonometric, variance_preserving or diffusion_steps
images | flow.path.kind=one_sided_interpolant & flow.coupling.kind=knn
| use flow.coupling.kind independent, or flow.path.kind linear
parts of paths | flow.path.kind=stochastic_interpolant | flow.path.kind: | 4 segments | ; use linear, trigonometric
points | sample.sampler.kind=causal_transition | sample.sampler.kind: causal_transition
| does not go with flow.objective.kind regression | ; use sample.sampler.kind euler
points | flow.objective.kind=causal_transition
| flow.objective.kind: causal_transition trains a head, which a mlp model lacks; use model.kind causal
points | flow.coupling.kind=symmetric & model.label_dropout=0 & sample.guidance=1
| flow.coupling.kind: symmetric puts classes into states, and toy data have 0
points | data.classes=true & model.label_dropout=0 & sample.guidance=1.5 | sample.guidance: 1.5
| ; use 1, or a model.label_dropout such as 0.1
points | sample.sampler.kind=renoise & flow.source={kind: toy, name: rings} | sample.sampler.kind: renoise
| ; use euler, heun or dopri5
points | sample.sampler.kind=renoise & flow.coupling.kind=minibatch_ot
| sample.sampler.kind: renoise does not go with flow.coupling.kind mini
blockwise | optim.global_batch=2 | model.segments: 3 segments exceed the micro | ; use
blockwise | flow.time={kind: stratified, segments: 4} | unevenly; use 3
blockwise | flow.time={kind: grid, steps: 2} | flow.time.steps: 2 | ; use
blockwise | sample.sampler={kind: euler, steps: 8} | euler steps across the edges | ; use
blockwise | sample.sampler={kind: segmented, segments: 4} | segments 4 steps across | ; use
blockwise | flow.objective={kind: aligned, teacher: t} | model.teacher_features: null | ; use
blockwise | flow.objective.kind=feature_residual
| feature_residual trains the residual network of a trunk that is finished | ; use
blockwise x 2 | parallel.tensor=2 | parallel.tensor: 2 | ; use
blockwise | model.residual_layers=1 | model.residual_layers: 1 are trained by
blockwise | model.teacher_features=6 | model.teacher_features: 6 belong to a projection
blockwise | model.teacher_features=6 & flow={objective: {kind: aligned, teacher: t}, data_scale: 2}
| aligned shows a teacher
blockwise | model.residual_layers=1 & model.init_from=runs/main & flow.objective.kind=feature_residual
| & optim.weight_decay=0.1 | optim.weight_decay: 0.1
blockwise | model.residual_layers=1 & model.init_from=runs/main & flow.objective.kind=feature_residual
| & model.dropout=0.1 | model.dropout: 0.1
blockwise | model.trunk_layers=0 & model.residual_layers=1 | residual_layers: 1 needs the features of a trunk
blockwise | model.trunk_layers=0 & model.teacher_features=8 | teacher_features: 8 needs the features
blockwise | model.hidden=12 | hidden: 12
blockwise | moe={num_experts: 4, expert_hidden: 8} | moe: the experts of a blockwise model
chain | flow.objective.kind=regression | flow.objective.kind: regression asks for | ; use causal_transition
chain | sample.sampler={} | sample.sampler.kind: heun | does not go with flow.objective.kind causal_transition
| ; use sample.sampler.kind causal_transition
chain | flow.path.kind=trigonometric | flow.objective.kind: causal_transition does not go with flow.path.kind trigonom
| flow.path.kind linear
chain | flow.path.sigma_min=0.1 | causal_transition does not go with flow.path.kind linear (sigma_min=0.1)
| flow.path.kind linear
chain | flow.target.kind=data | causal_transition does not go with flow.target.kind data | flow.target.kind velocity
chain | flow.coupling.kind=minibatch_ot | causal_transition does not go with flow.coupling.kind minibatch_ot
| process linear keeps the pairs | flow.coupling.kind independent
parts of paths | flow.source={kind: toy} | flow.source.kind: toy, but the pairs in data.path begin at noise
| leave flow.source out
chain | engine.compile=true | engine.compile: | kept tokens at each call that draws; use false
chain | flow.time={kind: grid, steps: 2} | flow.time.kind: grid | ; use uniform
chain | flow.source={kind: toy, name: rings, held_out: 5} | flow.source.kind: toy
| ; use flow.objective.process=linear, or remove flow.source
chain | sample.sampler.tokens=6
| sample.sampler.tokens: 6, but model.transitions 2 of 2 tokens are 4; leave it out
chain | data={kind: digits} & sample.kind=images & model.patch_size=3
| model.patch_size: 3 does not divide images of 8 pixels; use one of 1, 2, 4, 8
chain | moe={num_experts: 2, top_k: 1, expert_hidden: 8} | moe | tokens that come later included; remove the section
chain | sample.sampler.head.times=steps.json | head.times: steps.json holds times that were searched for the field
clusters x 2 | model.clusters=5 | optim.global_batch: 8, so that a plan labels the 8 examples of 1 steps, fewer than 2
| for each of model.clusters 5; use 10 or more
clusters x 2 | optim.global_batch=512 & task.steps_of_a_plan=4 & task.memory=8 | optim.global_batch: 512, so that a plan
| labels the 18,432 examples of 36 steps, and 16,384 are the most; use | fewer, fewer task.steps_of_a_plan, or less
clusters x 2 | task.labels.neighbours=8 | task.labels.neighbours: 8 are no fewer than the 8 examples of a plan; use 1
clusters x 2 | task.views.shift=9 | task.views.shift: 9 pixels are too large a shift for an image of 8
clusters x 2 | optim.steps=9 & task.steps_of_a_plan=2 | optim.steps: 9 is not a multiple of the 2 steps
clusters x 2 | data.kind=toy | task.views.shift: 1 moves images, and these examples have shape [2]; use 0
clusters x 2 | parallel.tensor=2 | parallel.tensor: 2 ranks cannot share the matrices of this network; use 1
clusters | task.labels={kind: unbalanced, gamma: 0} | gamma
clusters | task.labels={kind: uniform, epsilon: -0.1} | epsilon
clusters | task.labels={kind: partial, first_mass: 1} | first_mass
clusters | model.clusters=1 | clusters
clusters | task.labels={kind: uniform, gamma: 1} | gamma
clusters | flow={} | flow
clusters | moe={num_experts: 2, top_k: 1, expert_hidden: 4} | moe
clusters | sample.kind=images | sample
captions | model.kind=dit | flow.coupling.kind: encoded begins at what an encoder makes of captions, which a dit model
| lacks; use model.kind encoded_dit or encoded_mlp
captions | flow.captions=null | flow.captions: null leaves nothing to begin at, | ; name a folder
captions | flow.source.kind=digits | flow.source: encoded begins at a caption, | ; remove the section
captions | flow.context.kind=inpainting | flow.context: encoded begins at a caption
captions | flow.coupling.kind=minibatch_ot
| flow.coupling.kind: minibatch_ot does not go with flow.objective.kind encoded_source
| ; use flow.coupling.kind encoded
captions | flow.objective.kind=regression | flow.objective.kind: regression asks for a prediction, and a encoded_dit
| model draws by an encoder; use encoded_source
captions | model.kind=dit & flow.coupling={} & flow.objective.kind=encoded_source
| flow.objective.kind: encoded_source trains an encoder, which a dit model lacks; use model.kind encoded_dit or encoded
captions | flow.path.kind=trigonometric | flow.coupling.kind: encoded does not go with flow.path.kind
captions | flow.target.kind=data | flow.objective.kind: encoded_source does not go with flow.target.kind
captions | flow.target.kind=score | flow.objective.kind: encoded_source does not go with
captions | sample.sampler.kind=renoise | sample.sampler.kind: renoise does not go with flow.coupling.kind
captions | sample.sampler.kind=euler_maruyama | sample.sampler.kind: euler_maruyama does not go with
captions | optim.micro_batch=4 | optim.micro_batch: 4 examples are too few to tell captions apart,
| ; use 8 or more, or flow.objective.contrastive=0
captions | optim.micro_batch=1 & flow.objective.contrastive=0 | optim.micro_batch: 1 example has no other, | ; use 2 or
captions | model.label_dropout=0 | sample.guidance: 1.5 asks the network about no class, | ; use 1, or
captions | task={kind: grpo, base: unused, reward: {kind: ink}}
| task.kind: grpo is not for a encoded_dit model; use flow
captions | task={kind: adjoint_matching, base: unused, reward: {kind: ink}}
| task.kind: adjoint_matching is not for a encoded_dit model; use flow
labels in states | model.label_dropout=0.1 | model.label_dropout: 0.1 hides labels, | ; use 0
labels in states | sample.guidance=1.5 | sample.guidance: 1.5 asks for a network without a class, | ; use 1
labels in states | flow.source.kind=digits | flow.source: symmetric begins at noise
labels in states | flow.path.kind=trigonometric
| flow.coupling.kind: symmetric does not go with flow.path.kind trigonometric | or flow.path.kind linear
labels in states | flow.target.kind=data
| flow.coupling.kind: symmetric does not go with flow.target.kind data | or flow.target.kind velocity
labels in states | flow.objective.kind=monge_map
| flow.coupling.kind: symmetric does not go with flow.objective.kind monge_map | regression
labels in states | sample.sampler.kind=renoise
| flow.coupling.kind: symmetric does not go with sample.sampler.kind renoise | euler, heun or dopri5
masks in states | data.path=2_masks | flow.coupling.label.num: 1, and shards data have 2 channels | ; use 2
masks in states | data.path=0_masks | flow.coupling.label.num: 1, and shards data have none | ; write shards with
masks in states | data.path=1_masks & flow.coupling.label.kind=one_hot
| flow.coupling.label.kind: one_hot codes classes, | ; use channels
masks in states | data.path=1_masks & flow.coupling.label.classes.kind=scalar | symmetric puts classes into states,
| have 0
letters | flow.target.kind=velocity & flow.objective.kind=regression
| flow.path.kind: gumbel_softmax does not go with flow.target.kind velocity | flow.target.kind token
letters | flow.objective.kind=regression
| flow.target.kind: token does not go with flow.objective.kind regression | or cross_entropy
letters | flow.path.kind=linear & flow.target.kind=data
| flow.objective.kind: cross_entropy does not go with flow.target.kind data | flow.target.kind token
letters | flow.path.kind=stochastic_interpolant
| flow.target.kind: token does not go with flow.path.kind stochastic_interpolant | gumbel_softmax
letters | flow.source.kind=digits | flow.source: it is of images or points, and the data are sequences
letters | flow.data_scale=2 | flow.data_scale: 2 scales states, and flow.target.kind token | ; use 1
letters | sample.sampler.kind=renoise
| sample.sampler.kind: renoise does not go with flow.path.kind gumbel_softmax | euler
letters | sample.sampler.kind=euler_maruyama | sample.sampler.kind: euler_maruyama does not go with | needs the score
letters | sample={kind: images, guidance: 1} | sample.kind: images, and the data are of sequences; use sequences
letters | flow={}
| & sample.controls=[{kind: straight_through, reward: {class: "tests.trainer.flow.test_straight_through:Count"}}]
| sample.controls: [straight_through] does not go with flow.target.kind velocity | token
reactions | flow.coupling.kind=independent | flow.coupling.kind: independent moves the atoms | ; use ends
reactions | flow.target.kind=noise | flow.target.kind: noise is no vector of an atom, | ; use data or velocity
reactions | flow.data_scale=2 | flow.data_scale: 2 scales states, and the ends beside them are in angstrom; use 1
reactions | flow.path.kind=trigonometric | flow.coupling.kind: ends does not go with | flow.path.kind linear
reactions | flow.path.sigma_min=0.1 | flow.coupling.kind: ends does not go with flow.path.kind linear (sigma
reactions | flow.objective.kind=monge_map | flow.coupling.kind: ends does not go with flow.objective.kind
reactions | sample.sampler={kind: renoise, steps: 2} | sample.sampler.kind renoise
| use sample.sampler.kind euler, heun or dopri5
reactions | data={kind: digits} | data.kind: digits is not for a equivariant model; use reactions
spread | flow.coupling.kind=minibatch_ot | flow.objective.kind: | does not go with flow.coupling.kind
spread | flow.source.kind=digits | flow.objective.spread: it draws further source points, and flow.source
spread | flow.path.kind=stochastic_interpolant & flow.target.kind=velocity_and_noise | flow.objective.kind
map, gap | flow.path.kind=trigonometric | flow.objective.kind: | map of one step, | use flow.objective.kind reg
map, gap | flow.path.kind=variance_preserving | flow.objective.kind: | map of one step, | use flow.objective.kind reg
map, gap | flow.path.kind=stochastic_interpolant | flow.objective.kind: | map of one step, | use flow.objective.kind reg
map, gap | flow.target.kind=noise | flow.objective.kind: | map of one step, | use flow.objective.kind reg
map, gap | flow.target.kind=score | flow.objective.kind: | map of one step, | use flow.objective.kind reg
map | flow.coupling.kind=minibatch_ot | monge_map does not go with | two sets | or flow.coupling.kind independent
map | flow.coupling.kind=assignment | monge_map does not go with | two sets | or flow.coupling.kind independent
map | flow.coupling.kind=gibbs_weighted | monge_map does not go with | two sets | or flow.coupling.kind independent
map | flow.coupling.kind=knn | monge_map does not go with | two sets | or flow.coupling.kind independent
map | sample.sampler={kind: euler, steps: 20} | sample.sampler: euler with 20 steps can ask the network after t = 0,
| ; use {kind: euler, times: [0, 1]}
map | sample.sampler={kind: euler, steps: 1} | euler with 1 step can ask the network after t = 0,
map | sample.sampler={kind: euler, times: [0, 0.5, 1]} | euler with 2 steps can ask the network after t = 0,
map | sample.sampler={kind: heun, times: [0, 1]} | heun with 1 step can ask the network after t = 0,
map | sample.sampler={kind: dopri5} | dopri5 can ask the network after t = 0, | ; use {kind: euler, times: [0, 1]}
map | flow.time.kind=logit_normal | flow.time.kind: logit_normal has no effect | ; remove it
map | data={kind: digits} & model={hidden: 16, num_layers: 1, num_heads: 2} & flow.context.kind=inpainting
| flow.objective.kind: monge_map: | flow.context inpainting | ; remove one
gap | data={kind: digits} & model={hidden: 16, num_layers: 1, num_heads: 2} & flow.context.kind=inpainting
| flow.objective.monge_gap: | flow.context inpainting | ; remove one
map | optim.micro_batch=1 | flow.objective.kind: monge_map: in a micro batch of 1 | optim.micro_batch
gap | optim.micro_batch=1 | flow.objective.monge_gap: in a micro batch of 1 | optim.micro_batch
gap | sample.sampler={kind: segmented, segments: 3} & model={kind: blockwise_mlp, segments: 3, hidden: 8}
| flow.objective.monge_gap: one step | segments | use mlp or dit
matching, consistency | flow.path.kind=trigonometric | flow.objective.kind: | _distillation | does not go with
| flow.path.kind trigonometric | use flow.objective.kind regression | or flow.path.kind linear
matching, consistency | flow.target.kind=data | flow.objective.kind: | _distillation | does not go with
| flow.target.kind data
| use flow.objective.kind regression | or flow.target.kind velocity
matching, consistency | model={kind: blockwise_mlp, segments: 2} & sample.sampler={kind: segmented, segments: 2}
| flow.objective.kind: | model.segments 2; use model.kind=dit or mlp
matching | flow.source={kind: toy, name: rings, seed: 1} | flow.objective.weight_distribution: 1 | ; use 0
"""
"""Runs, x the ranks, changes with & between them, and what the line says, in this order."""

ACCEPTED = """
images
images | model={hidden: 16, num_layers: 1, num_heads: 2} & flow.objective.kind=monge_map
| & sample.sampler={kind: euler, times: [0, 1]}
images | model={hidden: 16, num_layers: 1, num_heads: 2} & flow.objective.kind=monge_map
| & sample.sampler={kind: euler, times: [0, 1]}
| & flow.latent={path: latents, shape: [2, 2, 2], image_shape: [1, 8, 8], digest: ab}
parts of paths
parts of paths | data.segments=null & flow.path.kind=stochastic_interpolant
points
points | data.classes=true & model.label_dropout=0
points | model.label_dropout=0 & sample.guidance=1.5
experts x 2
experts | moe=null & parallel.expert=1 & sample={every: 5, sampler: {kind: dopri5}}
experts | sample={every: null, sampler: {kind: dopri5}}
text | moe.router={kind: top_k, capacity_factor: 1.5}
text | moe.router.kind=expert_choice
text | sample={every: null, num_tokens: 1000}
text | sample={every: 1, num_tokens: 58, prompts: [import]}
blockwise
chain
chain | flow={objective: {process: linear}, coupling: {kind: minibatch_ot}}
chain | flow={objective: {process: linear}, source: {kind: toy, name: rings, held_out: 5}}
chain | flow.data_scale=2
clusters x 2
captions
captions | optim.micro_batch=2 & flow.objective.contrastive=0
labels in states
masks in states | data.path=1_masks
letters
letters | sample.sampler.kind=first_order
letters | sample.sampler.kind=heun
letters | sample.sampler.kind=dopri5
letters | sample.sampler.kind=segmented
letters | flow={target: {kind: token}, objective: {kind: regression, space: data}}
letters | flow={}
letters | sample.controls=[{kind: straight_through, reward: {class: "tests.trainer.flow.test_straight_through:Count"}}]
reactions
reactions | flow.objective.spread.draws=2
spread
map
map | flow.target.kind=data
map | flow.time={kind: grid, steps: 1}
map | flow.source={kind: toy, name: rings, held_out: 10}
map | flow.path={kind: linear, sigma_min: 0.1}
gap | sample.sampler={kind: heun, steps: 4} & flow.coupling.kind=gibbs_weighted
gap | sample.sampler={kind: heun, steps: 4} & flow.coupling.kind=minibatch_ot
gap | sample.sampler={kind: heun, steps: 4} & flow.target.kind=data
matching, consistency
matching, consistency | flow.path={kind: linear, sigma_min: 1e-4}
matching | flow.objective.weight_distribution=0 & flow.source={kind: toy, name: rings, seed: 1}
"""


def of_run(table: str, name: str) -> list[tuple[int, str, list[str]]]:
    """The rows of a run: its ranks, what is changed, and the other cells."""
    found = []
    for cells in rows(table.replace("\n| & ", " & ")):
        runs, _, ranks = cells[0].partition(" x ")
        if name in runs.split(", "):
            least = 2 if name in ("experts", "text") else 1
            found.append((int(ranks or least), *(cells[1:2] or [""]), cells[2:]))
    return found


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, monkeypatch)


@pytest.mark.parametrize("run", RUNS)
def test_what_has_no_meaning_is_refused_by_the_first_objection(run: str) -> None:
    for ranks, changes, said in of_run(REFUSED, run):
        with pytest.raises(ValueError, match=r".") as refusal:
            plan_layout(changed(run, changes), ranks)
        line, place = str(refusal.value), 0
        for part in said:
            assert part in line[place:], (changes, line)
            place = line.index(part, place)
        try:
            config = changed(run, changes)
        except (ValueError, Refusal):
            continue
        lines = [" ".join(str(error).split()) for error in validated_layout(config, ranks)]
        assert lines[0] == " ".join(line.split())
        assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("run", RUNS)
def test_what_has_a_meaning_is_accepted(run: str) -> None:
    accepted = of_run(ACCEPTED, run)
    assert accepted
    for ranks, changes, _ in accepted:
        assert isinstance(plan_layout(changed(run, changes), ranks), Layout)
