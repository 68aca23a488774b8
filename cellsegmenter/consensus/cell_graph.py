"""The graph of all pixels that take part in a cut, solved on cells.

A cell stands for pixels that no sample tells apart.  A community of cells is worth as much as that of its pixels: the
pairs between two cells count as one edge, and the pairs within a cell count once the solver is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from cellsegmenter.consensus.communities import Objective, quality, solve_pieces
from cellsegmenter.consensus.resolution import Method, Solver, mean_pair_weight
from cellsegmenter.consensus.visible import Visible

__all__ = ["CellGraph", "cell_graph", "co_membership"]

_ROUNDING = 1e-9  # of a share of samples times their number


@dataclass(frozen=True)
class CellGraph:
    """The graph of the pixels that take part, as cells."""

    min_foreground: float
    cells: np.ndarray  # (n,) int: which cells take part
    size: np.ndarray  # (n,) int64 px
    edges: sparse.csr_array  # (n, n) strictly upper triangular: summed weights of the pairs between two cells
    inside: np.ndarray  # (n,) float: summed weights of the pairs within a cell

    @cached_property
    def strength(self) -> np.ndarray:
        """(n,) summed weights of the pairs that each pixel of a cell is in, over its pixels."""
        return 2 * self.inside + self.edges.sum(axis=0) + self.edges.sum(axis=1)

    @cached_property
    def mean_weight(self) -> float:
        """Over all pairs of pixels."""
        return mean_pair_weight(float(self.strength.sum()), int(self.size.sum()))

    def communities(
        self, absolute: float, method: Method, random_state: int, solver: Solver = "igraph"
    ) -> np.ndarray:
        """(n,) int community of each cell at γ_abs; -1 for pixels that are worth more apart.

        All components are solved at once, which is faster than one by one: igraph is called once.
        """
        objective = self._objective(absolute, method)._replace(solver=solver)
        weight = self.strength if objective.use_strength else self.size
        n = len(self.size)
        community = solve_pieces(self.edges, np.array([0, n]), np.arange(n), weight, objective, random_state)
        worth = quality(self.edges, self.inside, self.size, weight, community, objective.threshold)
        return np.where(worth < 0, -1, community)

    def _objective(self, absolute: float, method: Method) -> Objective:
        """What Leiden optimises; see `GraphWork.objective`."""
        if method == "cpm":
            return Objective(absolute)
        n_pairs = int(self.size.sum()) * (int(self.size.sum()) - 1)
        threshold = absolute / self.mean_weight**2 / n_pairs if self.mean_weight > 0 else 0.0
        return Objective(threshold, use_strength=True)


def co_membership(visible: Visible) -> sparse.csr_array:
    """(n_cells, n_cells) int64: in how many samples both cells belong to one object."""
    weighted = sparse.csr_array(visible.cells.T * visible.times)
    return sparse.csr_array(weighted @ visible.cells)


def cell_graph(
    size: np.ndarray, together: sparse.csr_array, n_samples: int, min_foreground: float
) -> CellGraph:
    """The graph of the cells that are foreground often enough.

    Parameters
    ----------
    size : (n_cells,) int array
        px.
    together : (n_cells, n_cells) sparse int array
        See `co_membership`.
    n_samples : int
    min_foreground : float
        Least share of the samples that cover a cell.
    """
    covered = together.diagonal()
    takes_part = covered >= min_foreground * n_samples - _ROUNDING
    cells = np.flatnonzero(takes_part)
    place = np.cumsum(takes_part) - 1
    pairs = together.tocoo()
    first, second = pairs.coords
    kept = np.flatnonzero((first < second) & takes_part[first] & takes_part[second])
    first, second = first[kept], second[kept]
    weight = pairs.data[kept] / n_samples * size[first] * size[second]
    edges = sparse.csr_array((weight, (place[first], place[second])), shape=(len(cells), len(cells)))
    edges.sort_indices()
    inside = covered[cells] / max(n_samples, 1) * size[cells] * (size[cells] - 1) / 2
    return CellGraph(min_foreground, cells, size[cells], edges, inside)
