"""The graph of a whole image as work to be done: which components it has, and one task for each tile."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from cellsegmenter.consensus.communities import Objective, solve_graph
from cellsegmenter.consensus.components import Components, Share, find_components, shares
from cellsegmenter.consensus.contraction import CELL
from cellsegmenter.consensus.edges import edge_unit
from cellsegmenter.consensus.graph import EdgeRule, load_graph
from cellsegmenter.consensus.membership import gather_pixels
from cellsegmenter.consensus.pieces import Pieces, assemble, pieces_of_record, pieces_record
from cellsegmenter.consensus.resolution import Method, Solver, mean_pair_weight
from cellsegmenter.store import Record, Store, Task, run_tasks
from cellsegmenter.types import CERTAIN
from cellsegmenter.windows import Tiling

__all__ = ["GraphWork", "all_boxes"]

# Components beyond this many pixels are cut into squares: the edges of so many take about 0.5 GB in the solver,
# and with a halo of 40 px their pixels are solved 1.3 times.
_LARGEST_COMPONENT = 2**19


class GraphWork:
    """The graph over the pixels that are foreground often enough.

    Parameters
    ----------
    store : Store
        Holds `found-t` for every tile.
    tiling : Tiling
    rule : EdgeRule
    min_foreground : float
        Least probability of the pixels that take part.
    n_jobs : int or None
        For joblib.
    progress : bool
        Show bars.
    """

    def __init__(
        self,
        store: Store,
        tiling: Tiling,
        rule: EdgeRule,
        min_foreground: float,
        *,
        n_jobs: int | None,
        progress: bool = False,
    ) -> None:
        self.store = store
        self.tiling = tiling
        self.rule = rule
        self.min_foreground = min_foreground
        self.n_jobs = n_jobs
        self.progress = progress

    @property
    def n_pixels(self) -> int:
        """Vertices."""
        return self.components.n_pixels

    @cached_property
    def components(self) -> Components:
        gather_pixels(self.store, self.tiling, self.n_jobs)
        prefix = f"components-{self.min_foreground}"
        return find_components(
            self.store, self.tiling, min_weight=self._min_weight, prefix=prefix, n_jobs=self.n_jobs
        )

    @cached_property
    def halo(self) -> int:
        """Of squares of large components, px, in whole cells of merged pixels: two object diameters.

        The diameter is that of a disc of the median instance's mass; boxes leave room around their object.
        """
        masses = [self.store.load(f"found-{tile}", "mass")["mass"] for tile in range(len(self.tiling))]
        mass = np.concatenate([*masses, np.zeros(0)]) / CERTAIN
        diameter = 2 * float(np.sqrt(np.median(mass) / np.pi)) if len(mass) else 0.0
        return CELL * int(np.ceil(max(2 * diameter, self.rule.cutoff_distance) / CELL))

    @cached_property
    def shares(self) -> dict[int, Share]:
        """What each task solves."""
        return shares(self.components, self.tiling, halo=self.halo, largest=_LARGEST_COMPONENT)

    @cached_property
    def total_weight(self) -> float:
        """2W: the weights of all edges, each counted from both ends."""
        total = sum(int(self.store.load(name, "total")["total"][0]) for name in self._assembled.values())
        return total * edge_unit(self.rule.n_visits)

    @property
    def mean_weight(self) -> float:
        """The mean weight over all pairs of pixels, with or without an edge."""
        return mean_pair_weight(self.total_weight, self.n_pixels)

    def solve(self, prefix: str, objective: Objective, random_state: int) -> None:
        """Make the records `{prefix}-communities-{task}` of a cut."""
        tasks = [
            Task(f"{prefix}-communities-{task}", _solve_share, (name,), (name, objective, random_state))
            for task, name in self._assembled.items()
        ]
        run_tasks(self.store, tasks, self.n_jobs, progress=self._shown("communities"))

    def objective(self, absolute: float, method: Method, solver: Solver = "igraph") -> Objective:
        """What Leiden optimises at γ_abs."""
        if method == "cpm":
            return Objective(absolute, solver=solver)
        # RB compares with γ s s' / 2m, where γ = γ_abs / mean weight and 2m = Σ s = n (n - 1) mean weights.
        n_pairs = self.n_pixels * (self.n_pixels - 1)
        threshold = absolute / self.mean_weight**2 / n_pairs if self.mean_weight > 0 else 0.0  # no edges
        return Objective(threshold, use_strength=True, solver=solver)

    def pieces(self) -> list[Pieces]:
        """The whole graph."""
        return [pieces_of_record(self.store.load(name)) for name in self._assembled.values()]

    @cached_property
    def _assembled(self) -> dict[int, str]:
        """The record of the pieces that each task solves; they are made for the first cut and kept."""
        width = self.tiling.image_shape[1]
        tasks = {
            task: Task(
                f"edges-{self.min_foreground}-{task}",
                _assemble_share,
                tuple(f"pixels-{tile}" for tile in share.tiles),
                (share, self._min_weight, width, self.rule, self.halo),
            )
            for task, share in self.shares.items()
        }
        run_tasks(self.store, tasks.values(), self.n_jobs, progress=self._shown("edges"))
        return {number: task.name for number, task in tasks.items()}

    @property
    def _min_weight(self) -> float:
        return self.min_foreground * CERTAIN * self.rule.n_visits

    def _shown(self, what: str) -> str | None:
        return what if self.progress else None


def all_boxes(store: Store, tiling: Tiling) -> np.ndarray:
    """(n, 4) boxes of all instances of the image, px."""
    parts = [store.load(f"found-{tile}", "boxes")["boxes"] for tile in range(len(tiling))]
    return np.concatenate(parts).reshape(-1, 4)


def _assemble_share(
    store: Store, share: Share, min_weight: float, width: int, rule: EdgeRule, halo: int
) -> Record:
    graph = load_graph(store, share, min_weight=min_weight, width=width, rule=rule, halo=halo)
    return pieces_record(assemble(graph))


def _solve_share(store: Store, name: str, objective: Objective, random_state: int) -> Record:
    pixel, community = solve_graph(pieces_of_record(store.load(name)), objective, random_state=random_state)
    return {"pixel": pixel, "community": community}
