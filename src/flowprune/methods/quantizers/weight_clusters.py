"""CWS: shared values by k-means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from flowprune.methods.quantizers._shared_values.shared_values import (
    SIZES,
    SharedValues,
    checked_values,
    nearest,
    pooled,
    shared,
)
from flowprune.methods.quantizers.registry import REGISTRY

MANY = 100_000  # the authors' batch


@REGISTRY.register("cws")
class WeightClusters:
    """Shared values that are centres of k-means over the weights of all layers at once (CWS, "unified").

    Han, Mao & Dally, Deep Compression, ICLR 2016; Marinò, Petrini, Malchiodi & Frasca, arXiv 2108.12704:
    ``c = argmin_c sum_i min_l (w_i - c_l)^2``, every weight gets the nearest centre. Compared with the authors' code
    (fixtures): the same assignment; the centres follow other random numbers, so they are compared by their squared error.
    """

    size_option: ClassVar[str] = "values"
    sizes: ClassVar[tuple[int, ...]] = SIZES

    def fit(
        self, weights: Mapping[str, Tensor], *, values: int, seed: int = 0, keep_zeros: bool = True
    ) -> SharedValues:
        """Codes and codebook.

        Args:
            weights: by parameter name, any shapes.
            values: how many shared values; fewer come out where the weights are fewer.
            seed: of k-means++. Ten starts of full k-means up to 100,000 weights; above, mini-batches of as many, as in the
                authors' code.
            keep_zeros: whether weights that are zero (masked) stay zero, outside the codebook.

        Raises:
            FlowpruneError: ``values`` is below 1, or there is no finite weight to quantize.

        Example:
            >>> WeightClusters().fit({"fc": torch.tensor([0.0, 1.0, 1.2, -3.0])}, values=2).dequantize()["fc"]
            tensor([ 0.0000,  1.1000,  1.1000, -3.0000])
        """
        line, held = pooled(weights, keep_zeros)
        different = torch.unique(line)
        if len(different) <= checked_values(values, 1):
            codebook = different
        else:
            from sklearn.cluster import KMeans, MiniBatchKMeans  # of the extra flowprune[run]

            points = line.numpy()[:, None]
            if len(line) <= MANY:
                found = KMeans(values, n_init=10, random_state=seed).fit(points)
            else:
                found = MiniBatchKMeans(
                    values, batch_size=MANY, init_size=max(3 * values, MANY), n_init=3, random_state=seed
                ).fit(points)
            codebook = torch.unique(torch.from_numpy(found.cluster_centers_.ravel()).double())
        return shared(weights, held, codebook, nearest(line, codebook))
