"""Seconds to build and solve the consensus of a simulated posterior, beside leidenalg on the same graph.

    python -m benchmarks.consensus_speed --side 512

Ratios within one run carry over between machines; the seconds do not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

import igraph
import leidenalg
import numpy as np
from sklearn.metrics import adjusted_rand_score

from cellsegmenter.consensus import AbsoluteResolution, build_consensus
from cellsegmenter.consensus.communities import Objective, solve_graph
from cellsegmenter.consensus.edges import edge_unit
from cellsegmenter.consensus.graph import PixelGraph
from cellsegmenter.consensus.work import GraphWork
from tests.reference import simulate_discs, simulate_instances

Result = TypeVar("Result")


def timed(name: str, work: Callable[[], Result]) -> tuple[Result, float]:
    start = time.process_time()
    result = work()
    seconds = time.process_time() - start
    print(f"{name:40s} {seconds:8.2f} CPU s")
    return result, seconds


def leidenalg_communities(graphs: list[PixelGraph], resolution: float) -> None:
    """Communities of the same edges, block by block, with the published implementation."""
    for graph in graphs:
        for index in range(len(graph.blocks)):
            edges = graph.edges(index).tocoo()
            pairs = zip(edges.row.tolist(), edges.col.tolist(), strict=True)
            leidenalg.find_partition(
                igraph.Graph(edges.shape[0], edges=pairs),
                leidenalg.CPMVertexPartition,
                weights=(edges.data * edge_unit(graph.rule.n_visits)).tolist(),
                node_sizes=graph.vertices.size[graph.blocks[index].rows].tolist(),
                resolution_parameter=resolution,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=512, help="of the square image in px")
    parser.add_argument("--cutoff-distance", type=float, default=10.0, help="in px")
    parser.add_argument("--resolution", type=float, default=0.3, help="absolute, 0..1")
    options = parser.parse_args()

    shape = (options.side, options.side)
    discs = simulate_discs(shape, n_objects=round(1.4e-3 * options.side**2))
    instances = simulate_instances(shape, discs, window_size=80)
    consensus = build_consensus(instances, cutoff_distance=options.cutoff_distance)
    wanted = AbsoluteResolution(options.resolution)

    found, cut = timed("cut, edges and all", lambda: consensus.cut(wanted))
    single = build_consensus(instances, cutoff_distance=options.cutoff_distance, merge_tolerance=0)
    exact, unmerged = timed("the same without merged pixels", lambda: single.cut(wanted))
    timed("automatic resolution and cut", consensus.cut)
    work = GraphWork(consensus.store, consensus.tiling, consensus.rule, 0.5, n_jobs=1)
    graphs = [work.graph(task) for task in work.shares]  # these keep their edges
    n_edges, build = timed(
        "edges alone", lambda: sum(graph.edges(i).nnz for graph in graphs for i in range(len(graph.blocks)))
    )
    _, solve = timed(
        "communities alone", lambda: [solve_graph(graph, Objective(wanted.value)) for graph in graphs]
    )
    _, published = timed("leidenalg, communities only", lambda: leidenalg_communities(graphs, wanted.value))

    foreground = np.mean(np.asarray(found.labels) > 0)
    print(f"{n_edges / 1e6:.1f} M edges, {len(found)} objects of {len(discs)}, {foreground:.0%} foreground")
    rest = cut - build - solve
    print(
        f"a cut of {cut:.1f} s is edges {build / cut:.0%}, communities {solve / cut:.0%}, the rest {rest / cut:.0%}"
    )
    alike = adjusted_rand_score(np.ravel(found.labels), np.ravel(exact.labels))
    print(
        f"merging pixels saves {1 - cut / unmerged:.0%}, and the labels have ARI {alike:.3f} to those without"
    )
    print(f"leidenalg takes {published / solve:.1f} times as long as igraph for the communities")


if __name__ == "__main__":
    main()
