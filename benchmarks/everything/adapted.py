"""The phases of a preset as they are for a trained network, a budget of its kind, and six epochs in all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowprune.methods.presets import REGISTRY, Preset
from flowprune.studies.preset_phases import phases_from

EPOCHS = 6
"""What everybody may spend, in passes over the training images."""
BUDGETS: dict[str, dict[str, float]] = {
    "structured": {"macs": 0.6},
    "recovery": {"macs": 0.6},
    "mask": {"weights": 0.2},
    "quantizer": {"bytes": 0.125},
    "codec": {"bytes": 0.125},
}
"""Kind of a preset -> what is kept; a fixed pattern keeps what it keeps, and so does a preset that cannot be asked for it."""
LARGEST_RATE = 0.05
"""A published rate is that of a network that has not learned yet; this one has."""
RECOVERY = {"lr": 0.02, "schedule": "cosine", "batch_size": 128, "weight_decay": 5e-4}
"""Plain SGD, the same for all."""
OPTIONS: dict[str, dict[str, Any]] = {
    "tpp": {"delta": None, "zero_every": None},
    "greg": {"delta": None, "zero_every": None},
    "dafp": {"delta": 0.001},
    "microstructured": {"rho": [0.001, 0.1]},
    "mixed_precision": {"cooling": None, "rate": 0.3},
}
"""Where published options of a regularizer count the steps of a long training: those that fit a short one (None: by themselves)."""
PHASES: dict[str, dict[str, dict[str, Any]]] = {
    "rd": {"mask": {"allocator_options": {"points": 10}, "batches": 1}},
    "hetconv": {"mask": {"options": {"p": 10}}},
    "predefined_sparsity": {"mask": {"options": {"taps": 1, "period": 10}}},
    "rgp": {"mask": {"options": {"nodes": 16, "degree": 3, "graph": "searched"}}},
    "ssc": {"mask": {"options": {"group": 10, "shift": 1}}},
}
"""Kind of a phase -> what it has of its own here: 100 points of all tensors on 1,024 images would cost more than the training, and
fixed patterns are those that come nearest to a fifth of the weights."""
PASSES_AN_IMAGE = {
    "dsp": 2.0,
    "distillation": 1 + 1 / 3,
    "overparameterization": 1 + 1 / 3,
    "rd": 1.03,
    "widening_squeezing": 1 + 1 / 3,
}
"""Of trainings whose steps take more than a forward and a backward, or that come behind many forwards: their share of the images
shrinks by as much."""


def adapted(name: str) -> list[dict[str, Any]]:
    """The phases that a preset is carried out with here.

    Raises:
        FlowpruneError: as ``phases_from``.
    """
    preset = REGISTRY[name]
    phases = [dict(phase) for phase in phases_from(preset, _asked(preset))]
    if len(phases) > 1 and phases[0]["phase"] == "train" and not phases[0].get("regularizers"):
        phases = phases[1:]  # the weights are there
    phases = [{**phase, **PHASES.get(name, {}).get(phase["phase"], {})} for phase in phases]
    return settled(phases, OPTIONS.get(name, {}), PASSES_AN_IMAGE.get(name, 1.0))


def settled(
    phases: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any] | None = None,
    an_image: float = 1.0,
) -> list[dict[str, Any]]:
    """Phases with the epochs shared out among their trainings as their own lengths are to each other, one at least each.

    Args:
        phases: as in a recipe.
        options: of the regularizers in place of theirs; None takes one away.
        an_image: what an image costs in the dear trainings, which are those in which something acts, or all where nothing does.
    """
    own = [float(phase.get("training", {}).get("epochs", 1)) for phase in phases if _trains(phase)]
    epochs = iter(shared_out(EPOCHS, own))
    acts = [bool(phase.get("recoveries") or phase.get("regularizers")) for phase in phases]
    found = []
    for phase, dear in zip(phases, acts, strict=True):
        one = dict(phase)
        if _trains(phase):
            one["training"] = {**_training(phase), "epochs": next(epochs)}
            if an_image > 1 and (dear or not any(acts)):
                one["share"] = 1 / an_image
        if phase.get("regularizers"):
            one["regularizers"] = [_with(acting, options or {}) for acting in phase["regularizers"]]
        found.append(one)
    return found


def shared_out(total: int, lengths: Sequence[float]) -> list[int]:
    """``total`` whole epochs in the proportion of ``lengths``, at least one each; the largest remainders round up.

    >>> shared_out(6, [200, 40]), shared_out(6, [564, 120]), shared_out(6, [40])
    ([5, 1], [5, 1], [6])
    """
    free = total - len(lengths)
    exact = [max(0.0, total * length / sum(lengths) - 1) for length in lengths]
    scale = free / sum(exact) if sum(exact) else 0.0
    parts = [int(scale * part + 1e-9) for part in exact]
    order = sorted(range(len(lengths)), key=lambda number: parts[number] - scale * exact[number])
    for number in order[: free - sum(parts)]:
        parts[number] += 1
    return [1 + part for part in parts]


def _trains(phase: Mapping[str, Any]) -> bool:
    return phase["phase"] in ("train", "recover") or phase.get("training") is not None


def _training(phase: Mapping[str, Any]) -> dict[str, Any]:
    own = dict(phase.get("training") or {})
    if phase["phase"] == "quantize":
        return own  # the sums of many weights' gradients need a rate of their own
    plain = not phase.get("regularizers")
    return dict(RECOVERY) if plain else {**own, "lr": min(LARGEST_RATE, own.get("lr", LARGEST_RATE))}


def _with(acting: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    held = {**acting.get("options", {}), **options}
    return {**acting, "options": {key: value for key, value in held.items() if value is not None}}


def _asked(preset: Preset) -> dict[str, Any]:
    """What a recipe would ask the preset for; nothing where it takes no budget of its kind."""
    kept = BUDGETS.get(preset.kind, {})
    return {"pruning": {"budgets": [kept]}} if kept and set(kept) <= set(preset.takes) else {}
