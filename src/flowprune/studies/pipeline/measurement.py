"""One row of the results: what a model is worth and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from flowprune.engine.measuring import dead_filters, sparsity
from flowprune.errors import FlowpruneError
from flowprune.methods.codecs import measure
from flowprune.training import Data

PROFILE_BATCHES, PROFILE_BATCH_SIZE = 2, 256


def measured(model: nn.Module, x: Tensor) -> dict[str, Any]:
    """Parameters, MACs, what zeros and codecs leave of them, sparsity and dead filters, by the keys of ``results.json``.

    Args:
        model: any network of convolutions; its batch norms and weights tell everything, no data is needed.
        x: example input.
    """
    cost, sparse, dead = measure(model, x), sparsity(model, x), dead_filters(model, x)
    return {
        "params": cost.params,
        "macs": cost.macs,
        "nonzero": cost.nonzero,
        "effective_macs": cost.effective_macs,
        "bytes": cost.stored_bytes,
        "sparsity": sparse.effective,
        "sparsity_raw": sparse.raw,
        "zeros": sparse.zeros,
        "filters": dead.filters,
        "dead_filters": dead.dead,
        "dead_branch_ends": dead.dead_branch_ends,
        "dead_by_threshold": {f"{threshold:g}": count for threshold, count in dead.by_threshold.items()},
    }


def flow_profile(model: nn.Module, data: Data) -> dict[str, Any] | None:
    """The flow of a trained model over some unaugmented training images, with the paths of the first ten classes; None for a
    model that has no points.
    """
    # Here, because it brings torch's compiler with it, which `flowprune measure` need not wait for.
    from flowprune.methods.regularizers.feature_flow import FeatureFlow
    from flowprune.studies.flow_paths import flow_paths

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return data.batches("train", batch_size=PROFILE_BATCH_SIZE, count=PROFILE_BATCHES, seed=0)

    try:
        return flow_paths(model, batches()).as_dict()
    except FlowpruneError:
        pass  # no two points can be compared, say: there still is a profile
    try:
        with FeatureFlow(model) as flow:
            return flow.profile(batches()).as_dict()
    except FlowpruneError:
        # A network of a single convolution, say: it can be trained and pruned, there only is no flow to show.
        return None
