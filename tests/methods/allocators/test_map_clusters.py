"""ACP: counts and swarm as the authors' code has them, budgets, and each cut trained once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from fixtures import fixture
from torch import nn

import flowprune as fp
from flowprune.errors import ArtifactError, BudgetError, DataError, FlowpruneError
from flowprune.methods.allocators import REGISTRY
from flowprune.methods.allocators._clusters.different_maps import different_maps, map_distances
from flowprune.methods.allocators._swarm.moves import Move, original_move, textbook_move
from flowprune.methods.allocators._swarm.swarm import Swarm
from flowprune.methods.allocators.map_clusters import MapClusters
from flowprune.methods.allocators.particle_swarm import ParticleSwarm
from flowprune.studies.phases.short_trainings import KeptOnDisk

IMAGES = [torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(4))]


class Twins(nn.Module):
    """Of the first layer's twelve filters six are one filter scaled, of the second's all differ."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.two = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.one.weight[1:6] = self.one.weight[:1] * torch.arange(1.0, 6.0)[:, None, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).mean((2, 3)))


@pytest.mark.parametrize("eps", ["0.007", "0.05"])
def test_counts_are_those_of_the_authors_code(eps: str) -> None:
    found = fixture(f"ACP-dbscan-eps{eps}")
    given, wanted = found["inputs"], found["outputs"]["channel_counts"]
    for maps, count in zip(given["feature_maps"], wanted, strict=True):
        averages = np.asarray(maps).mean(0).reshape(len(maps[0]), -1)
        assert different_maps(map_distances(averages), given["eps"], given["min_samples"]) == count


class Recorded:
    """Gives the random numbers of the fixture, each kind in its order."""

    def __init__(self, signs: Any, velocities: Any, cycles: Any) -> None:
        self.signs, self.velocities = iter(signs), iter(velocities)
        self.dims = iter([dims for cycle in cycles for dims in cycle["dims_changed"]])
        self.numbers = iter([number for cycle in cycles for number in cycle["R"]])

    def integers(self, low: int, high: int, size: int) -> np.ndarray:
        drawn = np.asarray(next(self.signs) if low == -1 else next(self.dims))
        assert len(drawn) == size and drawn.min() >= low and drawn.max() < high
        return drawn

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        return np.asarray(next(self.velocities))

    def random(self) -> float:
        return float(next(self.numbers))


def test_the_original_steps_are_those_of_the_authors_code() -> None:
    found = fixture("ACP-pso")
    given, wanted = found["inputs"], found["outputs"]
    units, particles = len(given["channel_counts"]), given["particles"]
    target = np.asarray(given["target"])
    signs, speeds = (np.reshape(given[key], (particles, units)) for key in ("init_offsets_sign", "init_velocity"))
    swarm = Swarm(
        np.asarray(given["channel_counts"], dtype=np.float64),
        np.asarray(given["max_channels"], dtype=np.float64),
        lambda position: 200.0 - float(np.abs(position - target).sum()),
        particles,
        Recorded(signs, speeds, wanted["cycles"]),  # type: ignore[arg-type]
    )
    move = original_move(given["dims_per_step"])
    for number, after in enumerate([wanted["initial"], *(cycle["after"] for cycle in wanted["cycles"])]):
        if number:
            swarm.cycle(number - 1, 8, move)
        assert np.array_equal(swarm.positions, after["position"])
        assert np.allclose(swarm.velocities, after["velocity"], atol=1e-12, rtol=0)
        assert np.array_equal(swarm.own_best, after["pbest"]) and swarm.own_fitness == after["pbest_fitness"]
        assert np.array_equal(swarm.best, after["gbest"]) and swarm.best_fitness == after["gbest_fitness"]


def test_the_textbook_swarm_moves_every_width_to_the_fittest() -> None:
    """The original steps never draw the last one, which stays where each particle begins."""
    target = np.array([3.0, 9.0, 5.0, 2.0])

    def after(move: Move) -> tuple[Swarm, list[float]]:
        swarm = Swarm(
            np.array([6.0, 6.0, 6.0, 9.0]),
            np.full(4, 12.0),
            lambda position: -float(np.abs(position - target).sum()),
            12,
            np.random.default_rng(0),
        )
        began = [float(position[-1]) for position in swarm.positions]
        for number in range(60):
            swarm.cycle(number, 60, move)
        return swarm, began

    swarm, _ = after(textbook_move)
    assert np.abs(swarm.best - target).max() < 1
    swarm, began = after(original_move(2))
    assert [float(position[-1]) for position in swarm.positions] == began


def test_a_layer_of_twins_loses_more_and_the_budget_is_met() -> None:
    model = Twins()
    made = fp.plan(
        model, IMAGES[0][:1], importance=fp.importance.L1(), macs=0.5, allocator=MapClusters(IMAGES, least=2)
    )
    assert 0.4 < made.macs[1] / made.macs[0] <= 0.5
    kept = {layer.layer: layer.channels[1] / layer.channels[0] for layer in made.layers}
    assert kept["one"] < kept["two"]


def test_each_cut_is_trained_once_and_what_is_known_is_not_trained_again(tmp_path: Any) -> None:
    trained: list[str] = []

    def accuracy(net: nn.Module) -> float:
        trained.append(f"{net.one.out_channels},{net.two.out_channels}")
        if len(trained) == 2 and stops:
            raise KeyboardInterrupt
        return float(net.one.out_channels)

    def planned() -> Any:
        allocator = ParticleSwarm(
            IMAGES, accuracy=accuracy, known=KeptOnDisk(tmp_path / "stage" / "fitness.json"), particles=6, cycles=2
        )
        return fp.plan(Twins(), IMAGES[0][:1], importance=fp.importance.L1(), macs=0.5, allocator=allocator)

    stops = True
    with pytest.raises(KeyboardInterrupt):
        planned()
    stops = False
    resumed = planned()
    again = {one: trained.count(one) for one in trained if trained.count(one) > 1}
    assert again == {trained[1]: 2}  # the training that was interrupted
    known = len(trained)
    assert planned().removed == resumed.removed and len(trained) == known
    (tmp_path / "stage" / "fitness.json").write_text("[")
    with pytest.raises(ArtifactError, match=r"fitness\.json is damaged; remove it"):
        planned()


def test_linear_layers_tokens_and_depthwise_convolutions_have_counts_too() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
    tokens = torch.randn(4, 5, 8)
    made = fp.plan(block, tokens[:1], importance=fp.importance.L1(), params=0.8, allocator=MapClusters([tokens]))
    assert made.params[1] <= 0.8 * made.params[0] and {x.layer: x.channels[1] for x in made.layers}["linear1"] < 12
    depthwise = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 6),
        nn.Linear(6, 4),
    )
    made = fp.plan(depthwise, IMAGES[0][:1], importance=fp.importance.L1(), macs=0.5, allocator=MapClusters(IMAGES))
    assert made.macs[1] <= 0.5 * made.macs[0]


def test_what_it_cannot_do_is_one_line() -> None:
    example, l1 = IMAGES[0][:1], fp.importance.L1()
    with pytest.raises(BudgetError, match="feature maps say how many channels"):
        fp.mask(Twins(), example, mask="weight", weights=0.5, allocator="map_clusters", batches=IMAGES)
    with pytest.raises(DataError, match="none was given"):
        fp.plan(Twins(), example, importance=l1, macs=0.5, allocator=MapClusters([]))
    with pytest.raises(DataError, match="run it in a recipe"):
        fp.plan(Twins(), example, importance=l1, macs=0.5, allocator=ParticleSwarm(IMAGES))
    for name, options in [
        ("map_clusters", {"eps": 0}),
        ("map_clusters", {"least": 0}),
        ("particle_swarm", {"cycles": 0}),
    ]:
        with pytest.raises(FlowpruneError, match="use a"):
            REGISTRY[name](IMAGES, **options)
    with pytest.raises(FlowpruneError, match="steps"):
        ParticleSwarm(IMAGES, steps="bees")  # type: ignore[arg-type]
