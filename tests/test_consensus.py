"""The consensus against its definition, against leidenalg, and against simulated truth."""

import random
from dataclasses import replace

import igraph
import joblib
import leidenalg
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    confidence_by_visits,
    cpm_quality,
    disc_labels,
    draw_parts,
    edges_by_double_loop,
    nmi_by_window,
    pixel_index,
    rb_quality,
    shuffle_windows,
    simulate_discs,
    simulate_instances,
)
from scipy import sparse
from skimage.measure import label
from sklearn.metrics import adjusted_rand_score

from cellsegmenter.consensus import (
    AbsoluteResolution,
    ResolutionError,
    automatic,
    build_consensus,
)
from cellsegmenter.consensus import (
    resolution as resolution_module,
)
from cellsegmenter.consensus.agreement import SampleAgreement
from cellsegmenter.consensus.communities import Objective, solve_graph
from cellsegmenter.consensus.components import local_components
from cellsegmenter.consensus.confidence import Drawn, mean_best_iou, visible_sizes, window_numbers
from cellsegmenter.consensus.contraction import MERGE_TOLERANCE, merge_pixels
from cellsegmenter.consensus.edges import Visits, edge_unit, pixel_edges, visits_of
from cellsegmenter.consensus.graph import EdgeRule, PixelGraph
from cellsegmenter.consensus.pieces import assemble, pieces_of_record, pieces_record
from cellsegmenter.consensus.regions import draw_squares, stack_regions
from cellsegmenter.region import Region
from cellsegmenter.types import CERTAIN
from cellsegmenter.windows import make_windows

SHAPE = (90, 110)
FEW_DISCS = np.array([[11, 11, 6], [11, 22.5, 5.5], [22.5, 15, 6], [14, 42, 7], [31, 38, 5]])  # three touch


@pytest.fixture(scope="module")
def discs():
    return simulate_discs(SHAPE, n_objects=14, touching=0.6, seed=3)


@pytest.fixture(scope="module")
def truth(discs):
    return disc_labels(SHAPE, discs)


@pytest.fixture(scope="module")
def instances(discs):
    return simulate_instances(SHAPE, discs, stride=10)


@pytest.fixture(scope="module")
def few():
    """Few enough pixels for matrices of pixels × pixels; three of the discs touch."""
    return simulate_instances((40, 52), FEW_DISCS, stride=10)


@pytest.fixture(scope="module")
def consensus(instances):
    return build_consensus(instances, cutoff_distance=8)


def make_graph(instances, cutoff_distance=11.0, min_edge=0.01, squares=None, halo=0, merge_tolerance=0.0):
    membership = instances.membership.astype(np.int32).tocsr()
    pixels, component = local_components(membership, 0)
    rule = EdgeRule(cutoff_distance, min_edge, visits_of(instances), merge_tolerance)
    width = instances.image_shape[1]
    return PixelGraph(
        membership[pixels], pixels, component, width=width, rule=rule, squares=squares, halo=halo
    )


def all_weights(graph):
    """Dense symmetric (n, n) weights of the whole graph, collected from its blocks."""
    weights = np.zeros((len(graph), len(graph)))
    for index, block in enumerate(graph.blocks):
        weights[np.ix_(block.rows, block.rows)] = graph.edges(index).toarray()
    return (weights + weights.T) * edge_unit(graph.rule.n_visits)


def communities(graph, threshold, **options):
    """The community of each vertex; -1 for none."""
    pixel, community = solve_graph(assemble(graph), Objective(threshold, **options))
    found = np.full(len(graph), -1)
    found[np.argsort(graph.pixels)[np.searchsorted(np.sort(graph.pixels), pixel)]] = community
    return found


def whole_graph_leidenalg(weights, kind, **options):
    first, second = np.nonzero(np.triu(weights, 1))
    graph = igraph.Graph(len(weights), edges=list(zip(first.tolist(), second.tolist(), strict=True)))
    found = leidenalg.find_partition(
        graph, kind, weights=weights[first, second].tolist(), n_iterations=-1, seed=0, **options
    )
    return np.array(found.membership)


def total_strength(graph):
    return int(assemble(graph).total[0])


def same_objects(a, b):
    return adjusted_rand_score(np.ravel(a), np.ravel(b))


# Edges and graph --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 1000),
    cutoff_distance=st.floats(1.5, 9),
    min_edge=st.sampled_from([0.0101, 0.0997]),  # no weight is exactly that
)
def test_edges_equal_the_double_loop(seed, cutoff_distance, min_edge):
    shape = (13, 15)
    small = simulate_discs(shape, n_objects=3, radius=(2, 3), seed=seed)
    instances = simulate_instances(shape, small, window_size=8, stride=4, seed=seed)
    graph = make_graph(instances, cutoff_distance, min_edge)
    expected = edges_by_double_loop(instances, cutoff_distance, min_edge)
    found = {}
    for index, block in enumerate(graph.blocks):
        edges = graph.edges(index).tocoo()
        pixels = graph.pixels[block.rows]
        for i, j, weight in zip(pixels[edges.row], pixels[edges.col], edges.data, strict=True):
            found[min(i, j), max(i, j)] = weight * edge_unit(instances.n_visits)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[pair] for pair in expected], list(expected.values()), rtol=1e-5)


def test_edges_do_not_depend_on_the_blocks(few, monkeypatch):
    whole = make_graph(few)
    monkeypatch.setattr("cellsegmenter.consensus.graph._BLOCK_PIXELS", 100)
    monkeypatch.setattr("cellsegmenter.consensus.edges._ROWS", 37)
    pieces = make_graph(few)
    assert len(pieces.blocks) > len(whole.blocks)
    weights = all_weights(whole)
    np.testing.assert_array_equal(weights, all_weights(pieces))
    assert total_strength(pieces) * edge_unit(few.n_visits) == pytest.approx(weights.sum())


def test_what_every_visit_sees_together_has_weight_one_across_the_edges_of_windows():
    grid = make_windows((37, 43), 16, 4)
    seen = [np.unique(pixel_index(grid, np.array([window]))) for window in range(len(grid))]
    covered = [pixels[pixels >= 0] for pixels in seen]
    column = np.repeat(np.arange(len(grid)), [len(pixels) for pixels in covered])
    ones = np.full(len(column), CERTAIN, np.uint8)
    shape = (37 * 43, len(grid))
    everything = replace(
        simulate_instances((37, 43), np.zeros((0, 3)), window_size=16, stride=4),
        membership=sparse.csc_array((ones, (np.concatenate(covered), column)), shape=shape),
    )
    graph = make_graph(everything, cutoff_distance=6)
    assert len(graph.blocks) == 1
    np.testing.assert_allclose(graph.edges(0).data * edge_unit(16), 1, rtol=1e-6)


def test_groups_far_apart_have_no_edge_whatever_they_share():
    # The halves of an object on the border of two squares that are put one above the other; a pair of the largest
    # groups, divided by the one visit that could see both, does not fit into 32 bits.
    membership = sparse.csr_array(np.full((2, 16), 16 * CERTAIN, dtype=np.int32))
    edges = pixel_edges(
        membership,
        np.array([[0.0, 0.0], [300.0, 300.0]]),
        np.array([2, 2]),
        visits=Visits(per_axis=4, n_samples=1, stride=20),
        cutoff_distance=16,
        min_edge=0.01,
        size=np.array([16, 16]),
    )
    assert edges.nnz == 0


def test_components_share_no_edge(few):
    graph = make_graph(few)
    weights, component = all_weights(graph), np.zeros(len(graph), int)
    count = 0
    for block in graph.blocks:
        for start, stop in zip(block.component_start[:-1], block.component_start[1:], strict=True):
            component[block.rows[start:stop]] = count
            count += 1
    assert count > 1
    assert not weights[component[:, None] != component[None, :]].any()


# Communities ------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.6])
def test_cpm_by_component_reaches_leidenalg_on_the_whole_graph(few, threshold):
    graph = make_graph(few)
    weights = all_weights(graph)
    ours = communities(graph, threshold)
    theirs = whole_graph_leidenalg(weights, leidenalg.CPMVertexPartition, resolution_parameter=threshold)
    quality = cpm_quality(weights, theirs, threshold)
    assert cpm_quality(weights, ours, threshold) == pytest.approx(quality, rel=2e-3)
    if threshold < 0.5:  # above, the optimum is nearly degenerate and both stop at some of many cuts
        assert same_objects(ours, theirs) > 0.98


@pytest.mark.parametrize("gamma", [1.5, 4.0])
def test_rb_by_component_reaches_leidenalg_on_the_whole_graph(few, gamma):
    graph = make_graph(few)
    weights = all_weights(graph)
    ours = communities(graph, gamma / weights.sum(), use_strength=True)
    theirs = whole_graph_leidenalg(
        weights, leidenalg.RBConfigurationVertexPartition, resolution_parameter=gamma
    )
    assert rb_quality(weights, ours, gamma) == pytest.approx(rb_quality(weights, theirs, gamma), rel=2e-3)
    assert same_objects(ours, theirs) > 0.98


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_both_solvers_agree(few, method):
    consensus = build_consensus(few, cutoff_distance=8)
    ours, theirs = (
        consensus.cut(AbsoluteResolution(0.3), method=method, solver=solver)
        for solver in ("igraph", "leidenalg")
    )
    assert len(ours) > 1
    assert same_objects(ours.labels, theirs.labels) > 0.98
    again = consensus.cut(AbsoluteResolution(0.3), method=method, solver="leidenalg", random_state=0)
    np.testing.assert_array_equal(again.labels, theirs.labels)
    with pytest.raises(ValueError, match="solver='louvain'"):
        consensus.cut(solver="louvain")


def test_pruned_pixels_are_alone_in_the_whole_graph_optimum(few):
    graph = make_graph(few)
    weights, threshold = all_weights(graph), 0.4
    weak = weights.max(1) < threshold
    theirs = whole_graph_leidenalg(weights, leidenalg.CPMVertexPartition, resolution_parameter=threshold)
    assert weak.any()
    assert np.all(np.bincount(theirs)[theirs[weak]] == 1)


def test_tiles_with_a_halo_give_the_same_objects():
    shape = (60, 260)
    discs = simulate_discs(shape, n_objects=45, touching=1.0, seed=1)
    instances = simulate_instances(shape, discs, seed=1)
    whole = make_graph(instances, 8)
    squares = [[c, r, k, r + 30, k + 30] for c in range(100) for r in (0, 30) for k in range(0, 260, 30)]
    cut_up = make_graph(instances, 8, squares=np.array(squares, float), halo=25)
    assert all(block.square is not None for block in cut_up.blocks)
    assert total_strength(cut_up) == total_strength(whole)
    cut, in_squares = communities(whole, 0.2), communities(cut_up, 0.2)
    np.testing.assert_array_equal(whole.pixels, cut_up.pixels)
    assert same_objects(cut, in_squares) > 0.98
    assert np.mean(in_squares < 0) < 0.01


# Merged pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_merged_pixels_reach_the_objective_of_single_ones(instances, method):
    merged, single = make_graph(instances, merge_tolerance=MERGE_TOLERANCE), make_graph(instances)
    weights = all_weights(single)
    assert len(merged) < 0.75 * len(single)
    assert sum(merged.edges(i).nnz for i in range(len(merged.blocks))) < 0.7 * np.count_nonzero(weights) / 2
    quality, threshold = cpm_quality, 0.25
    if method == "rb":
        quality, threshold = rb_quality, 3.0
    scale = 1 if method == "cpm" else weights.sum()
    objective = Objective(threshold / scale, use_strength=method == "rb")
    cuts = []
    for graph in (merged, single):
        pixel, community = solve_graph(assemble(graph), objective)
        order = np.argsort(pixel)
        np.testing.assert_array_equal(pixel[order], np.sort(single.pixels))
        assert np.all(community[order] <= pixel[order])  # named after the first pixel
        cuts.append(community[order][np.searchsorted(np.sort(single.pixels), single.pixels)])
    of_merged, of_single = (quality(weights, cut, threshold) for cut in cuts)
    assert of_merged > 0.995 * of_single
    assert same_objects(*cuts) > 0.97


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_pixels_that_are_worth_less_together_than_apart_come_apart(few, method):
    far = {"cutoff_distance": 300, "min_edge": 1e-9}  # where edges of merged pixels are exactly sums
    merged, single = make_graph(few, merge_tolerance=MERGE_TOLERANCE, **far), make_graph(few, **far)
    weights = all_weights(single)
    expected = np.ones_like(weights)
    if method == "rb":
        expected = np.outer(weights.sum(0), weights.sum(0))
    pieces, n_found = assemble(merged), []
    for mean_weight in (0.3, 0.7, 0.9, 1.01):
        threshold = mean_weight / expected[weights > 0].mean()
        pixel, community = solve_graph(pieces, Objective(threshold, method == "rb"))
        place = np.argsort(single.pixels)[np.searchsorted(np.sort(single.pixels), pixel)]
        gain = weights - threshold * expected
        for name in np.unique(community):
            members = place[community == name]
            q = gain[np.ix_(members, members)][np.triu_indices(len(members), 1)].sum()
            assert q > -1e-3 * len(members)  # apart they are worth 0
        n_found.append(len(np.unique(community)))
    assert n_found == sorted(n_found)
    assert len(n_found) == len(set(n_found))
    if method == "cpm":
        assert n_found[-1] == len(single)  # no pair weighs more than 1


def test_merging_keeps_the_weight_of_the_graph(instances):
    merged, single = make_graph(instances, merge_tolerance=MERGE_TOLERANCE), make_graph(instances)
    # Not exactly, as the cut-off is measured between centres.
    assert total_strength(merged) == pytest.approx(total_strength(single), rel=0.02)
    far = make_graph(instances, 300, merge_tolerance=MERGE_TOLERANCE, min_edge=1e-9)
    whole = total_strength(make_graph(instances, 300, min_edge=1e-9))
    assert total_strength(far) == pytest.approx(whole, rel=1e-6)  # edges are rounded


@pytest.fixture
def patchy():
    """Rows of Π of 40 × 48 pixels, noisy around one of four levels in stripes; two components."""
    rng = np.random.default_rng(0)
    position = np.stack(np.divmod(np.arange(40 * 48), 48), axis=1)
    stripe = (position.sum(1) // 11) % 4
    rows = rng.integers(0, 256, (4, 12))[stripe] * rng.uniform(0.85, 1, (len(stripe), 12))
    component = (position[:, 1] > 20).astype(int)
    return sparse.csr_array(rows.astype(np.int32)), position, component


MERGING = {"tolerance": 0.12, "cutoff_distance": 14, "visits": Visits(2, 1, 20, (4, 6))}


def test_merged_pixels_are_alike_neighbours_of_one_component(patchy):
    membership, position, component = patchy
    found = merge_pixels(*patchy, **MERGING)
    dense = membership.toarray().astype(float)
    assert len(found.size) < 0.4 * len(position)
    assert 8 < found.size.max() <= (14 / 4) ** 2
    for vertex in np.flatnonzero(found.size > 1):
        members = np.flatnonzero(found.of_pixel == vertex)
        rows = dense[members]
        spread = ((rows - rows.mean(0)) ** 2).sum() / (rows**2).sum()
        assert spread <= 0.12**2 + 1e-9
        assert np.unique(component[members]).tolist() == [found.component[vertex]]
        assert len(np.unique((position[members] - (4, 6)) // 20, axis=0)) == 1  # seen by the same windows
        canvas = np.zeros((40, 48), bool)
        canvas[tuple(position[members].T)] = True
        assert label(canvas, connectivity=1).max() == 1
        np.testing.assert_array_equal(found.membership[[vertex]].toarray()[0], rows.sum(0))
        np.testing.assert_allclose(found.centre[vertex], position[members].mean(0))
        gram = rows @ rows.T
        assert found.inside[vertex] == gram[np.triu_indices(len(members), 1)].sum()
    assert np.all(np.diff(found.component) >= 0)


def test_the_merging_of_a_pixel_depends_on_its_cell_only(patchy):
    membership, position, component = patchy
    whole = merge_pixels(*patchy, **MERGING)
    part = np.random.default_rng(1).permutation(np.flatnonzero((position >= (8, 16)).all(1)))
    alone = merge_pixels(membership[part], position[part], component[part], **MERGING)
    of_whole, of_part = whole.of_pixel[part], alone.of_pixel
    assert len(np.unique(of_whole)) == len(alone.size)
    assert len(np.unique(of_whole * len(part) + of_part)) == len(alone.size)


def test_what_has_no_room_for_merging_stays_apart(patchy):
    membership, position, component = patchy
    for change in ({"tolerance": 0}, {"cutoff_distance": 5}, {"visits": Visits(2, 5000, 20)}):
        assert merge_pixels(*patchy, **MERGING | change).size.max() == 1
    assert not len(merge_pixels(membership[:0], position[:0], component[:0], **MERGING).size)


def test_pieces_come_back_from_their_record(few):
    squares = np.array([[c, r, 0, r + 20, 60] for c in range(9) for r in (0, 20)], float)
    for graph in (make_graph(few), make_graph(few, squares=squares, halo=12)):
        pieces = assemble(graph)
        back = pieces_of_record(pieces_record(pieces))
        assert (pieces.edges != back.edges).nnz == 0
        for ours, theirs in zip(pieces[1:], back[1:], strict=True):
            np.testing.assert_array_equal(ours, theirs)
        for found, expected in zip(*(solve_graph(p, Objective(0.3)) for p in (pieces, back)), strict=True):
            np.testing.assert_array_equal(found, expected)


def test_global_random_states_are_left_alone(consensus):
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global state is what is tested
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    consensus.cut(AbsoluteResolution(0.3))
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    random.seed(5)
    first = igraph.Graph.Erdos_Renyi(n=30, p=0.3).get_edgelist()
    random.seed(5)
    assert igraph.Graph.Erdos_Renyi(n=30, p=0.3).get_edgelist() == first  # igraph draws from Python's again


# Cuts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_automatic_resolution_recovers_the_objects(consensus, truth, method):
    found = consensus.cut(method=method)
    assert len(found) == truth.max()
    assert same_objects(found.labels, truth) > 0.9
    assert found.resolution.method == method
    assert found.resolution.chosen_by == "auto"
    assert 0.5 < found.resolution.agreement <= 1


@pytest.mark.parametrize("peak", range(13))
@pytest.mark.parametrize("flat", [0, 1, 4])
def test_the_best_resolution_is_found_with_few_cuts(peak, flat):
    asked = []

    def agreement(absolute):
        asked.append(absolute)
        return -0.01 * max(abs(resolution_module._GRID.index(absolute) - peak) - flat, 0)

    absolute, best = resolution_module.choose_resolution(agreement)
    low, high = max(peak - flat, 0), min(peak + flat, 12)
    assert best == 0
    assert resolution_module._GRID.index(absolute) == (low + high) // 2
    assert len(asked) == len(set(asked)) <= 9 + 2 * max(flat - 1, 0)


def test_automatic_resolution_from_regions_of_a_large_image(monkeypatch):
    shape = (170, 330)
    discs = simulate_discs(shape, n_objects=60, touching=0.5, seed=2)
    instances = simulate_instances(shape, discs, seed=2)
    monkeypatch.setattr(automatic, "_REGIONS", 3)
    rng = np.random.default_rng(0)
    assert draw_squares(instances.boxes, shape, n_regions=3, side=80, rng=rng) is not None
    found = build_consensus(instances, cutoff_distance=8).cut()
    assert same_objects(found.labels, disc_labels(shape, discs)) > 0.85


def test_stacked_regions_show_what_lies_in_the_image():
    shape = (90, 170)
    discs = simulate_discs(shape, n_objects=25, seed=2)
    instances = simulate_instances(shape, discs, seed=2)
    rng = np.random.default_rng(0)
    corners = draw_squares(instances.boxes, shape, n_regions=4, side=40, rng=rng)
    regions, windows = stack_regions(instances, corners, side=40, gap=5)
    assert regions.image_shape == (4 * 45, 40)
    stacked = regions.membership.toarray().reshape(4, 45, 40, -1)
    image = instances.membership.toarray().reshape(*shape, -1)
    assert not stacked[:, 40:].any()
    for square, (r, c) in zip(stacked[:, :40], corners, strict=True):
        other = image[r : r + 40, c : c + 40]
        np.testing.assert_array_equal(square.sum(-1, dtype=int), other.sum(-1, dtype=int))
    assert len(windows) == 4
    for window in windows:  # each square holds one window of its own size
        np.testing.assert_array_equal(regions.window_origin[window] % (45, 40), (0, 0))
        row, column = instances.window_origin[window]
        region = regions.window_origin[window][0] // 45
        np.testing.assert_array_equal(corners[region], (row, column))


def test_agreement_equals_its_definition(instances, truth):
    windows = np.arange(0, len(instances.window_origin), 7)
    fast = SampleAgreement(instances, windows)(truth)
    assert fast == pytest.approx(nmi_by_window(instances, windows, truth), abs=1e-9)


def test_a_second_cut_builds_no_edge(instances, monkeypatch):
    consensus = build_consensus(instances, cutoff_distance=8)
    consensus.cut(4.0)
    monkeypatch.setattr(
        "cellsegmenter.consensus.graph.pixel_edges", lambda *_, **__: pytest.fail("built again")
    )
    again = consensus.cut(AbsoluteResolution(0.5)).labels
    monkeypatch.undo()
    fresh = build_consensus(instances, cutoff_distance=8).cut(AbsoluteResolution(0.5)).labels
    np.testing.assert_array_equal(again, fresh)


def test_a_published_gamma_and_its_absolute_value_cut_alike(consensus):
    published = consensus.cut(4.0)
    absolute = consensus.cut(AbsoluteResolution(published.resolution.absolute))
    np.testing.assert_array_equal(published.labels, absolute.labels)
    assert absolute.resolution.gamma == pytest.approx(4.0)
    assert (published.resolution.chosen_by, absolute.resolution.chosen_by) == ("gamma", "absolute")
    assert published.resolution.cutoff_distance == 8


def test_published_gamma_scales_with_the_area_and_the_absolute_one_does_not(discs):
    twice = np.concatenate([discs, discs + np.array([0, 200, 0])])
    small = build_consensus(simulate_instances(SHAPE, discs), cutoff_distance=8)
    large = build_consensus(simulate_instances((90, 400), twice), cutoff_distance=8)
    cuts = [c.cut(AbsoluteResolution(0.2)).resolution.gamma for c in (small, large)]
    assert cuts[1] == pytest.approx(2 * cuts[0], rel=0.05)


@pytest.mark.parametrize("method", ["cpm", "rb"])
def test_a_gamma_too_large_for_the_image_is_answered_with_one_that_fits(consensus, truth, method):
    with pytest.raises(ResolutionError, match=r"resolution=5000 leaves no object.*Use resolution=") as caught:
        consensus.cut(5000, method=method)
    suggestion = caught.value.suggestion
    assert f"{suggestion.gamma:.3g}" in str(caught.value)
    assert len(consensus.cut(suggestion.gamma, method=method)) == truth.max()


def test_higher_resolution_gives_no_fewer_pixels_per_object(consensus):
    areas = [(consensus.cut(AbsoluteResolution(v)).labels > 0).sum() for v in (0.1, 0.4, 0.8)]
    assert areas == sorted(areas, reverse=True)


def test_labels_do_not_depend_on_the_order_of_windows(instances):
    for resolution in (AbsoluteResolution(0.3), "auto"):
        cuts = [
            build_consensus(order, cutoff_distance=8).cut(resolution)
            for order in (instances, shuffle_windows(instances))
        ]
        np.testing.assert_array_equal(cuts[0].labels, cuts[1].labels)
        np.testing.assert_array_equal(cuts[0].confidence, cuts[1].confidence)


def test_labels_are_deterministic_and_independent_of_parallelism(instances, monkeypatch):
    monkeypatch.setattr("cellsegmenter.consensus.graph._BLOCK_PIXELS", 300)
    first = build_consensus(instances, cutoff_distance=8).cut(AbsoluteResolution(0.5), random_state=7)
    with joblib.parallel_config(backend="threading"):
        parallel = build_consensus(instances, cutoff_distance=8, n_jobs=2)
        second = parallel.cut(AbsoluteResolution(0.5), random_state=7)
    np.testing.assert_array_equal(first.labels, second.labels)


@pytest.mark.parametrize("method", ["cpm", "rb"])
@pytest.mark.parametrize("largest", [65_536, 700])
def test_labels_do_not_depend_on_the_tiles(method, largest, monkeypatch):
    # Touching discs: components cross the borders of tiles, and with the lower limit they are solved in squares.
    monkeypatch.setattr("cellsegmenter.consensus.work._LARGEST_COMPONENT", largest)
    shape = (170, 330)
    instances = simulate_instances(shape, simulate_discs(shape, n_objects=90, touching=0.95, seed=4), seed=4)
    cuts = [
        build_consensus(instances, cutoff_distance=8, tile_size=size).cut(2.0, method=method, min_size=5)
        for size in (1000, 200, 50)
    ]
    assert len(cuts[0]) > 50
    for cut in cuts[1:]:
        np.testing.assert_array_equal(cut.labels, cuts[0].labels)
        np.testing.assert_array_equal(cut.foreground_prob, cuts[0].foreground_prob)
        np.testing.assert_array_equal(cut.confidence, cuts[0].confidence)
        np.testing.assert_allclose(cut.z_what, cuts[0].z_what, rtol=1e-6)
        assert cut.resolution == cuts[0].resolution


def test_the_automatic_resolution_does_not_depend_on_the_tiles():
    shape = (170, 500)
    instances = simulate_instances(shape, simulate_discs(shape, n_objects=90, seed=5), seed=5)
    cuts = [build_consensus(instances, cutoff_distance=8, tile_size=size).cut() for size in (1000, 160)]
    assert cuts[0].resolution == cuts[1].resolution
    np.testing.assert_array_equal(cuts[0].labels, cuts[1].labels)


def test_labels_are_consecutive_and_ordered_by_first_pixel(consensus):
    found = consensus.cut(AbsoluteResolution(0.3))
    flat = found.labels.ravel()
    values, first = np.unique(flat, return_index=True)
    np.testing.assert_array_equal(values, np.arange(len(found) + 1))
    assert np.all(np.diff(first[1:]) > 0)
    assert found.labels.dtype == np.int32
    assert np.bincount(flat)[1:].min() >= 20


@pytest.mark.parametrize("n_samples", [1, 2])
def test_confidence_equals_the_mean_over_visits(few, n_samples):
    posterior = few if n_samples == 1 else simulate_instances((40, 52), FEW_DISCS, n_samples=2)
    found = build_consensus(posterior, cutoff_distance=8).cut(AbsoluteResolution(0.2))
    expected = confidence_by_visits(posterior, found.labels)
    assert len(expected) >= 4
    np.testing.assert_allclose(found.confidence, expected, rtol=1e-6)
    assert 0.2 < found.confidence.min() < found.confidence.max() < 1


def test_objects_that_every_visit_draws_have_confidence_one_though_windows_cut_them():
    labels = np.zeros((37, 43), int)
    labels[3:12, 2:14] = 1
    labels[9:30, 20:33] = 2  # taller than a window
    labels[31:37, 0:9] = 3
    instances = draw_parts(labels, window_size=16, stride=4)
    size = np.bincount(labels.ravel())[instances.z_what[:, 0].round().astype(int) + 1]
    assert np.mean(instances.membership.sum(axis=0) < CERTAIN * size) > 0.5  # parts
    found = build_consensus(instances, cutoff_distance=12).cut(AbsoluteResolution(0.1))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.confidence, 1)


def test_confidence_tells_mergers_splits_and_misses():
    # Two objects in three windows of two samples; of the first they see 10, 6 and 4 px, of the second 0, 8 and 8.
    visible = sparse.csr_array([[10, 6, 4], [0, 8, 8]])
    instances = [  # window, sample, all of its mass, on the first object, on the second
        (0, 0, 10, 10, 0),  # exact
        (0, 1, 10, 10, 0),
        (1, 0, 14, 6, 8),  # both in one
        (1, 1, 6, 6, 0),
        (1, 1, 5, 0, 5),  # the second in two pieces
        (1, 1, 3, 0, 3),
        (2, 1, 8, 0, 4),  # half beside; and sample 0 of window 2 draws nothing
    ]
    window, sample, mass, first, second = np.array(instances).T
    mass_on = sparse.csr_array(CERTAIN * np.stack([first, second]).astype(float))
    found = mean_best_iou(mass_on, visible, Drawn(window, sample, CERTAIN * mass), n_samples=2)
    expected = (10 + 10 + 6 * 6 / 14 + 6 + 0 + 0) / 40, (8 * 8 / 14 + 8 * 5 / 8 + 0 + 8 * 4 / 12) / 32
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("corner", [(0, 0), (7, 13), (10, 4)])
def test_visible_sizes_count_what_windows_show(corner):
    region = Region(*corner, 23, 30)
    grid = make_windows((50, 60), 16, 4).touching(region)
    origin = grid.origin - corner
    visits = Visits(4, 1, 4, tuple(int(side) % 4 for side in origin[0]))
    label = np.random.default_rng(0).integers(-1, 3, region.shape)
    where = np.argwhere(label >= 0)
    found = visible_sizes(label[tuple(where.T)], where, 3, visits, region.shape).toarray()
    numbers = window_numbers(origin, visits, region.shape)
    assert len(np.unique(numbers)) == len(origin) == found.shape[1]
    for (top, left), number in zip(origin, numbers, strict=True):
        seen = label[max(top, 0) : top + 16, max(left, 0) : left + 16]
        np.testing.assert_array_equal(found[:, number], [(seen == i).sum() for i in range(3)])


def test_latent_codes_are_those_of_the_objects(discs, truth):
    sharp = simulate_instances(SHAPE, discs, stride=10, merge=0)
    found = build_consensus(sharp, cutoff_distance=8).cut()
    disc = [np.bincount(truth[found.labels == i]).argmax() - 1 for i in range(1, len(found) + 1)]
    np.testing.assert_allclose(found.z_what, np.repeat(disc, 3).reshape(-1, 3), atol=0.4)


def test_background_and_small_objects_are_dropped(consensus, instances):
    share = consensus.foreground()
    visits = instances.membership.sum(1, dtype=int).reshape(SHAPE)
    np.testing.assert_allclose(share, visits / (CERTAIN * instances.n_visits), rtol=1e-6)
    found = consensus.cut(AbsoluteResolution(0.1))
    assert share[found.labels > 0].min() >= 0.5
    assert share[consensus.cut(AbsoluteResolution(0.1), min_foreground=0).labels > 0].min() < 0.5
    assert len(consensus.cut(AbsoluteResolution(0.1), min_size=120)) < len(found)


def test_a_community_in_two_places_becomes_two_objects(instances):
    membership = np.zeros((20 * 20, 4), np.uint8)
    image = membership.reshape(20, 20, 4)
    image[2:8, 2:8] = image[2:8, 10:16] = CERTAIN  # one instance over two squares, in every visit
    image[12, 12] = CERTAIN
    apart = replace(
        instances,
        membership=sparse.csc_array(membership),
        image_shape=(20, 20),
        n_visits=4,
        window=np.zeros(4, np.int32),
        sample=np.arange(4, dtype=np.int32),
        window_origin=np.zeros((1, 2), np.int64),
        window_size=20,
        n_samples=4,
        **{name: getattr(instances, name)[:4] for name in ("presence_prob", "boxes", "z_what")},
    )
    found = build_consensus(apart, cutoff_distance=30).cut(AbsoluteResolution(0.5))
    assert np.bincount(found.labels.ravel()).tolist() == [400 - 72, 36, 36]
    np.testing.assert_allclose(found.confidence, 36 / 73, rtol=1e-6)  # of what visits see, less than half


def test_an_image_without_instances_has_no_objects():
    nothing = simulate_instances((30, 40), np.zeros((0, 3)))
    consensus = build_consensus(nothing, cutoff_distance=8)
    for resolution in ("auto", 500, AbsoluteResolution(0.3)):
        for method in ("cpm", "rb"):
            found = consensus.cut(resolution, method=method)
            assert found.labels.shape == (30, 40)
            assert not found.labels.any()
            assert found.confidence.shape == (0,)
            assert found.z_what.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"resolution": "best"}, "resolution='best' must be"),
        ({"resolution": -1}, "resolution=-1 must be"),
        ({"resolution": True}, "resolution=True must be"),
        ({"method": "louvain"}, "method='louvain'"),
        ({"min_size": 0}, "min_size=0"),
        ({"min_foreground": 2}, "min_foreground=2"),
    ],
)
def test_errors_name_the_parameter(consensus, arguments, message):
    with pytest.raises(ValueError, match=message):
        consensus.cut(**arguments)


def test_errors_before_the_cut(instances):
    with pytest.raises(ValueError, match="cutoff_distance=0"):
        build_consensus(instances, cutoff_distance=0)
    with pytest.raises(ValueError, match="min_edge=2"):
        build_consensus(instances, cutoff_distance=8, min_edge=2)
    with pytest.raises(ValueError, match="merge_tolerance=1"):
        build_consensus(instances, cutoff_distance=8, merge_tolerance=1)
    with pytest.raises(ValueError, match="value=500"):
        AbsoluteResolution(500)
