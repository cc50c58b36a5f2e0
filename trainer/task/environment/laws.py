"""The laws of environments, tried on random walks, and on all states where there are few.

Shape suffixes: B states, S integers of a state, A actions, F features, K objectives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.task.environment.protocol import Environment

WALKS = 64
MOST_STATES = 4096
"""Most states for which all states are checked."""


def check_laws(environment: Environment, *, name: str) -> None:
    """Tries an environment on random walks; the error names class, method, law and remedy in one line."""
    tried = _Tried(environment, f"task.environment.class: {name}")
    begun = tried.start()
    if bool(tried.leading(begun).any()):
        tried.refuse("leading names actions that lead into the start, where all begin; return none there")
    if not bool(tried.allowed(begun)[:, :-1].any(1).all()):
        tried.refuse("allowed leaves only the stop at the start, so that there is one object; allow an action there")
    states, generator = begun, torch.Generator().manual_seed(0)
    for _ in range(environment.max_actions):
        allowed = tried.allowed(states)
        tried.valued(states[allowed[:, -1]])
        chances = torch.rand(allowed.shape, generator=generator) * allowed
        chosen = chances.argmax(1)
        goes = chosen < environment.num_actions - 1
        if not bool(goes.any()):
            break
        tried.children(states)
        states = tried.step(states[goes], chosen[goes])
    else:
        left = tried.named(states)
        tried.refuse(
            f"of {WALKS} random walks, one has not stopped after max_actions = {environment.max_actions}, at {left}; "
            "allow nothing but the stop there, or raise max_actions"
        )
    tried.all_states(begun[:1])


class _Tried:
    def __init__(self, environment: Environment, place: str) -> None:
        self._environment, self._place = environment, place

    def refuse(self, problem: str) -> None:
        raise ValueError(f"{self._place}: {problem}")

    def named(self, states: Tensor, place: int = 0) -> str:
        return f"state {states[place].tolist()}"

    def start(self) -> Tensor:
        begun = self._called("start", WALKS)
        if begun.ndim != 2 or len(begun) != WALKS or begun.dtype != torch.int64:
            self._refuse_shape("start", begun, f"int64 [{WALKS}, S]")
        if not bool((begun == begun[0]).all()):
            self.refuse("start returns rows that differ; all objects begin at one state")
        return begun

    def allowed(self, states: Tensor) -> Tensor:
        result = self._of_rows("allowed", states, self._environment.num_actions, (torch.bool,))
        if not bool(result.any(1).all()):
            stuck = int(result.any(1).int().argmin())
            self.refuse(f"allowed names no action at {self.named(states, stuck)}; allow the stop there")
        return result

    def leading(self, states: Tensor) -> Tensor:
        return self._of_rows("leading", states, self._environment.num_actions - 1, (torch.bool,))

    def valued(self, objects: Tensor) -> None:
        """Checks the features and rewards of objects, if there are any."""
        if not len(objects):
            return
        floats = (torch.float32, torch.float64)
        self._of_rows("features", objects, self._environment.num_features, floats)
        rewards = self._of_rows("rewards", objects, len(self._environment.objectives), floats)
        outside = ((rewards < 0) | (rewards > 1)).any(1)
        if bool(outside.any()):
            place = int(outside.int().argmax())
            self.refuse(
                f"rewards are {rewards[place].tolist()} at {self.named(objects, place)}; scale them to lie in [0, 1]"
            )

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        result = self._called("step", states, actions)
        if result.shape != states.shape or result.dtype != torch.int64:
            self._refuse_shape("step", result, f"int64 {list(states.shape)}")
        return result

    def children(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The children [N, S] of all allowed actions, and these actions [N]; `leading` has to name each action."""
        parents, actions = self.allowed(states)[:, :-1].nonzero(as_tuple=True)
        children = self.step(states[parents], actions)
        listed = self.leading(children).gather(1, actions[:, None])[:, 0]
        if not bool(listed.all()):
            place = int(listed.int().argmin())
            self.refuse(
                f"action {int(actions[place])} is allowed at {self.named(states[parents], place)} and leads to "
                f"{self.named(children, place)}, for which leading does not name it; correct allowed, step or leading"
            )
        return children, actions

    def all_states(self, begun: Tensor) -> None:
        """Compares `leading` with the actions that do lead into each state, unless there are too many states."""
        into: dict[tuple[int, ...], set[int]] = {tuple(begun[0].tolist()): set()}
        fresh_states = begun
        while len(fresh_states):
            children, actions = self.children(fresh_states)
            fresh: list[Sequence[int]] = []
            for child, action in zip(map(tuple, children.tolist()), actions.tolist(), strict=True):
                if child not in into:
                    into[child] = set()
                    fresh.append(child)
                into[child].add(action)
            if len(into) > MOST_STATES:
                return
            fresh_states = torch.tensor(fresh, dtype=torch.int64).reshape(len(fresh), begun.shape[1])
        states = torch.tensor(list(into))
        for state, listed, really in zip(states, self.leading(states), into.values(), strict=True):
            false = set(listed.nonzero()[:, 0].tolist()) - really
            if false:
                self.refuse(
                    f"leading names action {min(false)} at {self.named(state[None])}, where it leads from nowhere; "
                    "leave it out"
                )

    def _of_rows(self, method: str, states: Tensor, columns: int, types: Sequence[torch.dtype]) -> Tensor:
        """Calls a method on states and checks that rows are finite, of the right shape, and equal for a state alone."""
        result = self._called(method, states)
        if result.shape != (len(states), columns) or result.dtype not in types:
            named = " or ".join(str(one).removeprefix("torch.") for one in types)
            self._refuse_shape(method, result, f"{named} [{len(states)}, {columns}]")
        if not bool(result.isfinite().all()):
            place = int(result.isfinite().all(1).int().argmin())
            self.refuse(f"{method} are not finite at {self.named(states, place)}; make them finite")
        if not bool(torch.isclose(self._called(method, states[-1:]), result[-1:], rtol=1e-4).all()):
            self.refuse(
                f"{method} differ for {self.named(states, -1)} alone and among other states; make each row a function "
                "of its own state"
            )
        return result

    def _called(self, method: str, *arguments: Any) -> Tensor:
        call: Callable[..., Tensor] = getattr(self._environment, method)
        try:
            answer = call(*arguments)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(f"{self._place}: {method} fails ({reason}); correct it") from error
        if not isinstance(answer, Tensor):
            self.refuse(f"{method} returns {type(answer).__name__}; return a tensor")
        return answer

    def _refuse_shape(self, method: str, result: Tensor, wanted: str) -> None:
        given = f"{str(result.dtype).removeprefix('torch.')} {list(result.shape)}"
        self.refuse(f"{method} returns {given}; return {wanted}")
