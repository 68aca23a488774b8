"""The consensus of a simulated posterior beside the published way, on the same Π: CPU seconds, objective, labels.

    python -m benchmarks.consensus_speed --sides 250 500 1000 --published-up-to 500

The published way (Suppl. S9) shifts all instances by one displacement after the other for the edges, and gives
the whole graph of pixels to leidenalg.  Ratios within one run carry over between machines; the seconds do not.
Writes results/consensus_speed.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import igraph
import leidenalg
import numpy as np
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from cellsegmenter.consensus import AbsoluteResolution, Consensus, build_consensus
from cellsegmenter.consensus.communities import Objective, solve_graph
from cellsegmenter.consensus.edges import visits_of
from cellsegmenter.consensus.work import GraphWork
from cellsegmenter.types import CERTAIN, Instances
from tests.reference import simulate_discs, simulate_instances

RESULTS = Path(__file__).parent / "results" / "consensus_speed.json"
CUTOFF_DISTANCE = 12.0  # px, the mean diameter of the discs
MIN_EDGE = 0.01
MIN_FOREGROUND = 0.5  # of the pixels that take part, in both
WANTED = AbsoluteResolution(0.3)
Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """What some work gives, and its CPU seconds."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def shifted_edges(instances: Instances, taking_part: np.ndarray) -> sparse.coo_array:
    """(n, n) edges between n pixels, displacement by displacement (S6), each pair once, averaged as ours."""
    height, width = instances.image_shape
    rows = sparse.csr_array(instances.membership.astype(np.float32).tocsr() / CERTAIN)
    reach = int(np.ceil(CUTOFF_DISTANCE))
    row, column = np.divmod(taking_part, width)
    visits = visits_of(instances)
    number = np.full(height * width, -1)
    number[taking_part] = np.arange(len(taking_part))
    firsts, seconds, weights = [], [], []
    for down in range(reach + 1):
        for along in range(-reach if down else 1, reach + 1):
            if down**2 + along**2 >= CUTOFF_DISTANCE**2:
                continue
            inside = (row + down < height) & (column + along >= 0) & (column + along < width)
            first = taking_part[inside]
            second = first + down * width + along
            first, second = first[number[second] >= 0], second[number[second] >= 0]
            together = rows[first].multiply(rows[second]).sum(axis=1) / instances.n_visits
            places = (np.stack(np.divmod(pixels, width), axis=1) for pixels in (first, second))
            weight = together / visits.share(np.subtract(*(visits.cell(place) for place in places)))
            kept = weight >= MIN_EDGE
            firsts.append(number[first[kept]])
            seconds.append(number[second[kept]])
            weights.append(weight[kept])
    shape = (len(taking_part),) * 2
    return sparse.coo_array(
        (np.concatenate(weights), (np.concatenate(firsts), np.concatenate(seconds))), shape=shape
    )


def whole_graph_leidenalg(edges: sparse.coo_array) -> np.ndarray:
    """(n,) communities of the whole graph."""
    first, second = edges.coords
    pairs = zip(first.tolist(), second.tolist(), strict=True)
    found = leidenalg.find_partition(
        igraph.Graph(edges.shape[0], edges=pairs),
        leidenalg.CPMVertexPartition,
        weights=edges.data.tolist(),
        resolution_parameter=WANTED.value,
        seed=0,
    )
    return np.array(found.membership)


def objective(edges: sparse.coo_array, community: np.ndarray) -> float:
    """CPM's Σ over communities of (e - γ) over their pairs of pixels."""
    first, second = edges.coords
    within = community[first] == community[second]
    size = np.bincount(np.unique(community, return_inverse=True)[1]).astype(float)
    return float(edges.data[within].sum() - WANTED.value * (size * (size - 1) / 2).sum())


def communities_of(consensus: Consensus) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that take part, ascending, and the communities that our solver finds, before small objects are dropped."""
    work = GraphWork(consensus.store, consensus.tiling, consensus.rule, MIN_FOREGROUND, n_jobs=1)
    solved = [solve_graph(pieces, Objective(WANTED.value)) for pieces in work.pieces()]
    pixel, community = (np.concatenate(parts) for parts in zip(*solved, strict=True))
    order = np.argsort(pixel)
    return pixel[order], community[order]


def measure(side: int, published: bool) -> dict[str, Any]:
    """All numbers for a square image of that side."""
    discs = simulate_discs((side, side), n_objects=round(1.4e-3 * side**2))
    instances = simulate_instances((side, side), discs, window_size=80)
    prepare = partial(build_consensus, instances, cutoff_distance=CUTOFF_DISTANCE, min_edge=MIN_EDGE)
    found, first = timed(lambda: (ready := prepare(), ready.cut(WANTED)))
    consensus, cut = found
    result = {
        "side": side,
        "visits": instances.n_visits,
        "objects": [len(discs), len(cut)],
        "foreground": round(float(np.mean(np.asarray(cut.labels) > 0)), 3),
        "first_cut_seconds": round(first, 2),
        "second_cut_seconds": round(timed(lambda: consensus.cut(AbsoluteResolution(0.4)))[1], 2),
        "automatic_cut_seconds": round(timed(consensus.cut)[1], 2),
    }
    single = prepare(merge_tolerance=0)
    unmerged, seconds = timed(lambda: single.cut(WANTED))
    result["unmerged_cut_seconds"] = round(seconds, 2)
    result["ari_to_unmerged"] = round(alike(cut.labels, unmerged.labels), 4)
    if published:
        pixels, ours = communities_of(consensus)
        edges, build = timed(lambda: shifted_edges(instances, pixels))
        theirs, solve = timed(lambda: whole_graph_leidenalg(edges))
        result |= {
            "published_edges_seconds": round(build, 1),
            "published_leidenalg_seconds": round(solve, 1),
            "million_edges": round(edges.nnz / 1e6, 2),
            "times_faster": round((build + solve) / first, 1),
            "objective_to_published": round(objective(edges, ours) / objective(edges, theirs), 5),
            "ari_to_published": round(alike(ours, theirs), 4),
        }
    return result


def alike(one: Any, other: Any) -> float:
    """ARI over all pixels."""
    return float(adjusted_rand_score(np.ravel(one), np.ravel(other)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[250, 500, 1000], help="px of the square images"
    )
    parser.add_argument("--published-up-to", type=int, default=500, help="largest side for the published way")
    options = parser.parse_args()
    results = []
    for side in options.sides:
        results.append(measure(side, side <= options.published_up_to))
        print(json.dumps(results[-1]), flush=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
