"""The results file of a run, ``results.json``, typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from flowprune.errors import ArtifactError

FILE_NAME = "results.json"


class Record(BaseModel):
    """Further keys are kept: a later version of the package may write more than this one reads."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class ResultRow(Record):
    """One model of the run.

    Attributes:
        network: its name.
        method: how it was trained: "plain", "ffr", or another name.
        stage: "dense", "pruned", "finetuned", or what else a phase leaves; numbered where a method has several of a kind
            ("finetuned-2").
        budget: what it was pruned to ("macs=0.5", "threshold=0.01"); None for the dense model.
        top1: test accuracy after the last epoch, in per cent.
        params, macs: parameters, multiply-accumulates per image.
        sparsity: share of effective weights that are negligible, in [0, 1].
        filters, dead_filters: of the model as it is at this stage.
        filters_removed: since the dense model; None where nothing was cut.
    """

    network: str
    method: str
    stage: str = Field(min_length=1)
    budget: str | None = None
    top1: float
    params: int
    macs: int
    sparsity: float
    filters: int
    dead_filters: int
    filters_removed: int | None = None

    @property
    def budget_is_of_macs(self) -> bool:
        """Whether what was asked for is a share or count of the MACs."""
        return (self.budget or "").startswith("macs")


class PointRow(Record):
    """One point of a flow profile: means over images, channels and positions; None where no pair (triple) of points enters.

    ``silent`` is the number of silent channels; a list of them is counted.
    """

    name: str
    shape: list[int] = []
    magnitude: float | None = None
    gradient: float | None = None
    relative: float | None = None
    curvature: float | None = None
    angle: float | None = None
    silent: int | None = None

    @field_validator("silent", mode="before")
    @classmethod
    def _count(cls, silent: Any) -> Any:
        return len(silent) if isinstance(silent, (list, tuple)) else silent


class StageRow(Record):
    """The paths of images through one stage of a flow; ``flowprune.studies.flow_paths.StagePaths`` says what each field is."""

    points: tuple[str, ...] = Field(min_length=2)
    carried: bool
    shape: tuple[int, ...]
    images: int
    scale: float
    steps: tuple[float, ...]
    length: float
    net: float
    straightness: float | None = None
    along: tuple[float, ...]
    aside: tuple[float, ...]
    labels: tuple[int | None, ...]
    counts: tuple[int, ...]
    coordinates: tuple[tuple[tuple[float, float], ...], ...]
    explained: tuple[float, float]
    visible: float

    @model_validator(mode="after")
    def _fits(self) -> StageRow:
        count = len(self.points)
        rows = (len(self.along), len(self.aside), len(self.steps) + 1, *map(len, self.coordinates))
        if any(row != count for row in rows) or not len(self.labels) == len(self.counts) == len(self.coordinates):
            raise ValueError("a stage whose lists have different lengths")
        return self


class ChannelRow(Record):
    """Output channels of one layer, before and after the cut."""

    layer: str
    dense: int
    kept: int


class RunResults(Record):
    """A run.

    Attributes:
        environment: versions and hardware.
        recipe: the recipe as it was run.
        seed: of the run.
        rows: one for each model.
        histories: "network/method/stage" or "network/method/stage/budget" -> one dictionary per epoch.
        flow_profiles: "network/method" -> the points in order (or a flow profile's dictionary with ``points``).
        flow_stages: "network/method" -> the stages in order; from those dictionaries' ``stages``, where they have any.
        flow_totals: "network/method" -> the flow in a few numbers; from their ``totals``.
        channels: "network/method/budget" -> the layers in order.
    """

    environment: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    rows: list[ResultRow] = Field(min_length=1)
    histories: dict[str, list[dict[str, Any]]] = {}
    flow_profiles: dict[str, list[PointRow]] = {}
    flow_stages: dict[str, list[StageRow]] = {}
    flow_totals: dict[str, dict[str, float | None]] = {}
    channels: dict[str, list[ChannelRow]] = {}

    @model_validator(mode="before")
    @classmethod
    def _stages(cls, content: Any) -> Any:
        profiles = content.get("flow_profiles") if isinstance(content, Mapping) else None
        if not isinstance(profiles, Mapping):
            return content
        found = {
            name: {
                key: profile[part]
                for key, profile in profiles.items()
                if isinstance(profile, Mapping) and part in profile
            }
            for name, part in (("flow_stages", "stages"), ("flow_totals", "totals"))
        }
        return {**found, **content}

    @field_validator("flow_profiles", mode="before")
    @classmethod
    def _points(cls, profiles: Any) -> Any:
        if not isinstance(profiles, Mapping):
            return profiles
        return {
            key: profile["points"] if isinstance(profile, Mapping) and "points" in profile else profile
            for key, profile in profiles.items()
        }


def checked_results(results: RunResults | Mapping[str, Any], where: str = "the results") -> RunResults:
    """``results`` as a ``RunResults``.

    Raises:
        ArtifactError: a key is missing or holds the wrong kind of value; it is named.
    """
    if isinstance(results, RunResults):
        return results
    try:
        return RunResults.model_validate(results)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top level"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = f"{where}: {place}: {first['msg'].lower()}{more}; is it the results.json of a flowprune run?"
        raise ArtifactError(message) from None


def load_results(path: str | Path) -> RunResults:
    """Read a results file.

    Args:
        path: the file, or the folder of the run that holds it as ``results.json``.

    Raises:
        ArtifactError: it is missing, not JSON, or not the results of a run.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: there is no such file; pass the folder of a finished run or its {FILE_NAME}"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: is no JSON file ({error}); it may be half written, run again") from None
    return checked_results(content, str(path))


def split_key(key: str, parts: int) -> list[str | None]:
    """The parts of a key such as "network/method/stage/budget", from the right filled with None.

    "null" and "None" as a last part mean that there is none.
    """
    found: list[str | None] = [None if part in ("", "null", "None") else part for part in key.split("/")]
    return (found + [None] * parts)[:parts]
