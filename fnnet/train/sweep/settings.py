"""The settings of a sweep, checked and with their defaults filled in."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from fnnet import check
from fnnet.train.history import more_is_better
from fnnet.train.sweep.halving import count_rungs, count_survivors

MAPPINGS = ("auto", "vmap", "map", "fastest")


@dataclass(frozen=True)
class Settings:
    """The settings of a sweep."""

    trials: int
    seeds: np.ndarray  # int[seeds]
    score: str
    maximize: bool
    halving: int | None
    mapping: str
    chunk: int | None  # trials per compiled call, if given
    mesh: Mesh | None
    keep: str
    histories: bool
    folder: bool  # whether there is one

    @property
    def eta(self) -> int:
        """By how much each rung reduces the trials and extends the runs; 1 without halving."""
        return self.halving or 1

    @property
    def rungs(self) -> int:
        """The number of rungs."""
        return count_rungs(self.trials, self.halving)

    @property
    def work(self) -> list[int]:
        """The number of trials in each rung."""
        return [count_survivors(self.trials, self.eta, rung) for rung in range(self.rungs)]

    @property
    def largest_chunk(self) -> int:
        """The most trials per compiled call: all, but an eighth with a folder or if both mappings are timed."""
        in_parts = self.folder or self.mapping == "fastest"
        return min(self.chunk or (-(-self.trials // 8) if in_parts else self.trials), self.trials)

    def keeps_all(self, rung: int) -> bool:
        """Whether the params of all trials of a rung are kept, not only those of the best."""
        return self.keep == "all" or rung + 1 < self.rungs


def resolve_settings(
    data: Any,
    *,
    trials: int,
    seeds: int | Sequence[int],
    score: str,
    maximize: bool | None,
    halving: int | None,
    mapping: str,
    chunk: int | None,
    mesh: Mesh | None,
    keep: str,
    histories: bool,
    folder: bool,
) -> Settings:
    """The settings, or a TypeError or ValueError that says which of them is wrong; see `sweep`."""
    numbers = list_seeds(seeds)
    if not isinstance(score, str):
        raise TypeError(f"sweep: score={score!r}, wanted the name of a measure, such as 'valid_loss'")
    if maximize is not None:
        check.flag("sweep", "maximize", maximize)
    maximize = more_is_better(score) if maximize is None else maximize
    if maximize is None:
        raise ValueError(
            f"sweep: score={score!r}, and its name does not say whether more is better, wanted maximize= too"
        )
    check.fits_in_jax("sweep: data", data)
    if bad := [leaf for leaf in jax.tree.leaves(data) if not hasattr(leaf, "dtype")]:
        raise TypeError(
            f"sweep: data has {check.describe(bad[0])} in it, wanted a dict or a Dataset of arrays"
        )
    check.one_of("sweep", "mapping", mapping, MAPPINGS)
    check.one_of("sweep", "keep", keep, ("best", "all"))
    check.flag("sweep", "histories", histories)
    if chunk is not None:
        check.is_positive("sweep", "chunk", chunk)
    _check_mesh(mesh)
    if halving is not None:
        check.is_positive("sweep", "halving", halving)
        if not 2 <= halving <= trials:
            raise ValueError(f"sweep: halving={halving}, wanted at least 2, and at most the {trials} trials")
        if histories:
            raise ValueError(
                "sweep: histories=True with halving, where histories differ in length; wanted one of the two"
            )
    return Settings(trials, numbers, score, maximize, halving, mapping, chunk, mesh, keep, histories, folder)


def list_seeds(seeds: int | Sequence[int]) -> np.ndarray:
    """The seeds 0, 1, ... for a number, or those of a list."""
    if isinstance(seeds, Integral):
        check.is_positive("sweep", "seeds", seeds)
        return np.arange(int(seeds))
    numbers = np.asarray(seeds)
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or not 0 < len(numbers) == len(np.unique(numbers)):
        raise ValueError(f"sweep: seeds={seeds!r}, wanted a number of seeds, or a list of different ints")
    if numbers.min() < 0 or numbers.max() >= 2**31:
        raise ValueError(f"sweep: seeds={seeds!r}, wanted ints from 0 to 2**31 - 1")
    return numbers


def check_score(score: str, curves: Sequence[str]) -> None:
    """Raises ValueError if the history has no such curve."""
    check.one_of("sweep", "score", score, sorted(curves))


def _check_mesh(mesh: Any) -> None:
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"sweep: mesh={mesh!r}, wanted a jax.sharding.Mesh, such as jax.make_mesh((8,), ('runs',))"
        )
    if any(d.process_index != jax.process_index() for d in mesh.devices.flat):
        raise ValueError(
            "sweep: mesh has devices of other processes, wanted those of this one; sweep a part of the space in "
            "each process"
        )
