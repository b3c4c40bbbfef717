"""Methods beside ``forward`` that will be called on the small model: those that fuse a block's branches for deployment, above all.

No trace of a forward sees the integers that only they read (``in_channels``, the width of an identity's kernel). So each is carried
out: on a copy of the dense module, to see which integer attributes it reads and what it changes, and on copies of the small one
with those attributes set to what the widths that they may count became. What decides is that the small module, fused, still
computes what it computed before.
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice, product
from typing import Any

from torch import nn

from flowprune.engine.allocation import AttributeChange, Plan
from flowprune.engine.surgery.cut import cut
from flowprune.engine.surgery.method_trial import Taken, example_of, outcome_of, own_copy, problem_of
from flowprune.engine.tracing import Graph, trace
from flowprune.engine.tracing.expressions import Attribute
from flowprune.errors import FlowpruneWarning, ModelError

PREFIXES = ("fuse", "reparameterize", "reparametrize", "switch_to_deploy")
"""How the methods are called that make one layer of several (timm, RepVGG and those who followed it, Ultralytics)."""
ATTEMPTS = 64
"""How many combinations of what the attributes may count are tried, a method."""


def follow_other_methods(model: nn.Module, inputs: Any, plan: Plan, graph: Graph, also: Collection[str] = ()) -> Plan:
    """``plan`` with the integer attributes that only methods beside ``forward`` read.

    A ``FlowpruneWarning`` names the methods that will not do to the small model what they do to the dense one.

    Args:
        model: the dense model.
        inputs: its example inputs.
        plan: a certified plan.
        graph: the dense model's evaluation pass.
        also: further names of methods without required arguments.

    Raises:
        ModelError: if no module has a method of a name in ``also``.
    """
    methods = _methods(model, also)
    if not methods or plan.is_empty:
        return plan
    small = cut(model, plan).eval()
    taken = _calls(graph), _calls(trace(small, inputs))
    changes: list[AttributeChange] = []
    complaints: list[str] = []
    known = dict(small.named_modules())
    for path, name in methods:
        if path in known and _is_cut(path, plan):
            found = _followed(model.get_submodule(path), known[path], path, name, plan, [t.get(path) for t in taken])
            if isinstance(found, str):
                complaints.append(found)
            else:
                changes += found
    if changes:
        followed = replace(plan, attributes=(*plan.attributes, *changes))
        if _same_passes(cut(model, plan), cut(model, followed), inputs):
            plan = followed
        else:
            named = ", ".join(f"{change.module}.{change.name}" for change in changes)
            complaints.append(f"{named} would change the forward, too, and so stay what they are")
    if complaints:
        more = f" (and {len(complaints) - 3} more)" if len(complaints) > 3 else ""
        warnings.warn(f"{'; '.join(complaints[:3])}{more}", FlowpruneWarning, stacklevel=4)
    return plan


def _methods(model: nn.Module, also: Collection[str]) -> list[tuple[str, str]]:
    """(path of a module, name of a method), the innermost modules first: what is set there, the outer ones find."""
    wanted = (also,) if isinstance(also, str) else tuple(also)
    found: list[tuple[str, str]] = []
    for path, module in model.named_modules():
        kind: Any = type(module)
        names = (*_fusing(kind), *(name for name in wanted if _needs_nothing(kind, name)))
        found += [(path, name) for name in dict.fromkeys(names)]
    for name in wanted:
        if not any(method == name for _, method in found):
            raise ModelError(
                f"also={name!r}: no module of {type(model).__name__} has a method of this name that needs no arguments"
            )
    return sorted(found, key=lambda entry: -len(entry[0].split(".")) if entry[0] else 0)


@lru_cache(maxsize=4096)
def _fusing(kind: Any) -> tuple[str, ...]:
    if kind.__module__.startswith("torch."):
        return ()
    return tuple(name for name in dir(kind) if name.startswith(PREFIXES) and _needs_nothing(kind, name))


@lru_cache(maxsize=4096)
def _needs_nothing(kind: Any, name: str) -> bool:
    """Whether a class has a method of this name that can be called without arguments."""
    method = inspect.getattr_static(kind, name, None)
    if not inspect.isfunction(method):
        return False
    others = list(inspect.signature(method).parameters.values())[1:]
    return all(p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in others)


def _is_cut(path: str, plan: Plan) -> bool:
    return any(not path or name.startswith(f"{path}.") for name in plan.removed)


def _calls(graph: Graph) -> dict[str, Taken]:
    """Path of a module -> what its first call took in."""
    found: dict[str, Taken] = {}
    for call in graph.calls:
        found.setdefault(call.path, [(graph.values[v].shape, graph.values[v].dtype) for v in call.inputs])
    return found


def _followed(
    dense: nn.Module, small: nn.Module, path: str, method: str, plan: Plan, taken: Sequence[Taken | None]
) -> list[AttributeChange] | str:
    """The attributes of ``small`` (which are set) that let ``method`` do to it what it does to ``dense``; or what is wrong."""
    where = f"{_joined(path, method)}()"
    dense_inputs, small_inputs = (None if shapes is None else example_of(shapes, dense) for shapes in taken)
    expected = outcome_of(own_copy(dense), method, dense_inputs)
    if expected.raised:
        return f"{where} {expected.raised} on the dense model already, so what it does to the small one is not known"
    as_cut = outcome_of(own_copy(small), None, small_inputs).before
    became = _became(dense, small)
    choices = {place: _candidates(place, dense, small, became) for place in expected.read}
    choices = {place: candidates for place, candidates in choices.items() if len(candidates) > 1}
    removed = [indices for name in _tensors(dense, path) for indices in plan.removed.get(name, {}).values()]
    failure = ""
    for values in islice(product(*choices.values()), ATTEMPTS):
        changed = {place: value for place, value in zip(choices, values, strict=True) if value != place.held_by(small)}
        tried = own_copy(small)
        for place, value in changed.items():
            place.put_into(tried, value)
        problem = problem_of(outcome_of(tried, method, small_inputs), expected, as_cut, removed)
        if not problem:
            changes = [
                AttributeChange(_joined(path, p.module), p.name, p.position, p.held_by(dense), value)
                for p, value in changed.items()
            ]
            for place, value in changed.items():
                place.put_into(small, value)
            return changes
        failure = failure or problem
    named = ", ".join(dict.fromkeys(_joined(path, _joined(place.module, place.name)) for place in choices))
    why = f"no value of {named} mends that" if named else "none of the integer attributes it reads is a width"
    return f"{where} will not do to the small model what it does to the dense one: it {failure}, and {why}"


def _joined(path: str, inner: str) -> str:
    return f"{path}.{inner}" if path and inner else path or inner


def _tensors(module: nn.Module, path: str) -> Iterator[str]:
    for name, _ in (*module.named_parameters(), *module.named_buffers()):
        yield _joined(path, name)


Became = dict[str, Counter[tuple[int, int]]]
"""Path of a module -> how often a size of its own became another, by (before, after)."""


def _became(dense: nn.Module, small: nn.Module) -> Became:
    """The sizes of tensors, and the integers that torch's own layers keep of them, that a cut has changed."""
    known = dict(small.named_modules())
    found: Became = {}
    for path, module in dense.named_modules():
        if path not in known:
            continue
        sizes = found[path] = Counter()
        for own, other in ((module._parameters, known[path]._parameters), (module._buffers, known[path]._buffers)):
            for name, tensor in own.items():
                left = other.get(name)
                if tensor is not None and left is not None:
                    sizes.update(zip(tensor.shape, left.shape, strict=False))
        if type(module).__module__.startswith("torch.nn."):
            numbers = {name: held for name, held in vars(module).items() if type(held) is int}
            sizes.update((held, getattr(known[path], name, held)) for name, held in numbers.items())
    return found


def _candidates(place: Attribute, dense: nn.Module, small: nn.Module, became: Became) -> list[int]:
    """What an attribute may be in the small module: what sizes equal to it became, those of its own module and the commonest first,
    and what it was. Nothing else, where it has been changed already."""
    before = place.held_by(dense)
    try:
        if place.held_by(small) != before or before < 2:
            return [before]
    except (AttributeError, TypeError, IndexError):  # the modules of branches are others
        return [before]
    near: Counter[int] = Counter()
    far: Counter[int] = Counter()
    for path, sizes in became.items():
        inside = not place.module or path == place.module or path.startswith(f"{place.module}.")
        for (old, new), count in sizes.items():
            if old == before != new:
                (near if inside else far)[new] += count
    ordered = [size for counted in (near, far) for size, _ in counted.most_common()]
    return [*dict.fromkeys(ordered), before]


def _same_passes(left: nn.Module, right: nn.Module, inputs: Any) -> bool:
    """Whether two models run the same operators on the same sizes, in both modes."""

    def recorded(model: nn.Module) -> list[Any]:
        graphs = [trace(model, inputs, training=training) for training in (False, True)]
        operations = [(o.name, o.arguments, o.keywords, o.outputs) for graph in graphs for o in graph.operations]
        return [*operations, *((value.shape, value.dtype) for graph in graphs for value in graph.values)]

    return recorded(left) == recorded(right)
