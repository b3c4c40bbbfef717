"""Which mutants are tried on which network: every kind that the network gives occasion for, a few of each."""

from __future__ import annotations

import random
from collections.abc import Iterator

from flowprune.engine.tracing import trace
from mutation import faults_in_analysis, faults_in_attributes, faults_in_constants, faults_in_cuts, faults_in_rules
from mutation.constants_subjects import BETWEEN, ConstantsSubject
from mutation.hearing import sayings
from mutation.subjects import NAMES, Subject
from mutation.trial import Mutant

EVERY_NAME = (*NAMES, *BETWEEN)
"""The networks whose rules, cuts and attributes are mutated, and those for the constants."""


def subject_of(name: str) -> Subject | ConstantsSubject:
    """The network of that name, its right cut, and what the right cut returns."""
    return ConstantsSubject(name) if name in BETWEEN else Subject(name)


def mutants_of(subject: Subject | ConstantsSubject, of_a_kind: int) -> list[Mutant]:
    """At most ``of_a_kind`` mutants of every kind, drawn the same way every time; rules made wrong are all there."""
    found: dict[str, list[Mutant]] = {}
    for mutant in _all(subject):
        found.setdefault(mutant.kind, []).append(mutant)
    chosen: list[Mutant] = []
    for kind, mutants in found.items():
        if kind.startswith(("rule: ", "constants: ")) or len(mutants) <= of_a_kind:
            chosen += mutants
        else:
            chosen += random.Random(f"{subject.name} {kind}").sample(mutants, of_a_kind)
    return chosen


def _all(subject: Subject | ConstantsSubject) -> Iterator[Mutant]:
    if isinstance(subject, ConstantsSubject):
        yield from faults_in_constants.mutants(trace(subject.model, subject.inputs))
        return
    yield from faults_in_cuts.mutants(subject.plan)
    yield from faults_in_attributes.mutants(subject.model, subject.plan)
    said, carrying = sayings(subject.model, subject.inputs)
    yield from faults_in_rules.mutants(trace(subject.model, subject.inputs), said, carrying)
    yield from faults_in_analysis.mutants(said, carrying)
