"""Shapes and sizes of every network, and the promises of `infer` and `generate`."""

import itertools
import json
import threading

import numpy as np
import pytest
import torch
from reference import tiny_config
from torch import Tensor

from cellsegmenter.model import structured_vae
from cellsegmenter.model.boxes import intersection_over_minimum
from cellsegmenter.model.coders import (
    BackgroundDecoder,
    BackgroundEncoder,
    BlobMask,
    FreeRasters,
    ObjectDecoder,
    ObjectEncoder,
)
from cellsegmenter.model.config import PRESETS, ModelConfig, grid_level_for, preset_of
from cellsegmenter.model.device import autocast_for, resolve_device, threads_for
from cellsegmenter.model.posterior import gaussian_posterior
from cellsegmenter.model.proposals import ProposalHead
from cellsegmenter.model.rendering import render
from cellsegmenter.model.structured_vae import Exploration, Inference, Noise, StructuredVAE
from cellsegmenter.model.unet import UNet
from cellsegmenter.types import WindowPosterior

MAX_OBJECTS = 6
ALPHA = 0.4


def build(seed: int = 0, **sizes) -> StructuredVAE:
    torch.manual_seed(seed)
    return StructuredVAE(tiny_config(**sizes)).eval()


def windows(model: StructuredVAE, n: int = 3, seed: int = 0) -> Tensor:
    size = model.config.window_size
    return torch.rand(n, model.config.n_channels, size, size, generator=torch.Generator().manual_seed(seed))


def draw_noise(model: StructuredVAE, n: int = 3, seed: int = 0) -> Noise:
    c, generator = model.config, torch.Generator().manual_seed(seed)
    points = c.grid_shape[0] * c.grid_shape[1]
    return Noise(
        torch.rand(n, points, generator=generator),
        torch.randn(n, points, 4, generator=generator),
        torch.randn(n, MAX_OBJECTS, c.latent_dim, generator=generator),
        torch.randn(n, c.background_latent_dim, generator=generator),
    )


@torch.no_grad()
def infer(model: StructuredVAE, image: Tensor, noise: Noise | None = None, **options) -> Inference:
    return model.infer(image, noise, max_objects=MAX_OBJECTS, overlap_threshold=ALPHA, **options)


def tensors(state: object) -> list[Tensor]:
    """Every tensor of nested named tuples."""
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state for tensor in tensors(part)]


def same(a: object, b: object) -> bool:
    return all(torch.equal(x, y) for x, y in zip(tensors(a), tensors(b), strict=True))


@pytest.fixture
def model() -> StructuredVAE:
    return build()


# U-Net (Suppl. S3)


@pytest.mark.parametrize(
    ("depth", "grid_level", "fine_level"), [(4, 3, 0), (4, 2, 1), (3, 3, 0), (2, 1, 1), (4, 4, 2), (3, 0, 0)]
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_unet_gives_features_at_three_depths(depth, grid_level, fine_level, n_channels):
    unet = UNet(n_channels, 4, depth, grid_level, fine_level)
    features = unet(torch.rand(2, n_channels, 32, 48))
    for field, level in ((features.bottom, depth), (features.grid, grid_level), (features.fine, fine_level)):
        assert field.shape == (2, unet.out_channels[level], 32 >> level, 48 >> level)
    assert features.fine.shape[1] == 4
    assert features.bottom.shape[1] == 4 * 2 ** (depth - fine_level)


def test_the_reference_sizes_are_the_papers():
    c = ModelConfig()
    unet = UNet(c.n_channels, c.unet_channels, c.unet_depth, c.grid_level, c.fine_level).eval()
    with torch.no_grad():
        features = unet(torch.zeros(1, 1, 80, 80))
    assert features.bottom.shape[1:] == (512, 5, 5)
    assert features.fine.shape[1:] == (32, 80, 80)
    assert ObjectEncoder(32, c.raster, c.object_channels, c.latent_dim).mean.in_features == 3136
    assert FreeRasters(c.latent_dim, c.raster, c.object_channels, 2).expand.out_features == 64 * 7 * 7
    assert BackgroundDecoder(1, 80, c.background_channels, c.background_latent_dim).expand.out_features == 800
    assert (c.raster, c.latent_dim, c.background_latent_dim) == (28, 20, 20)


# Encoders and decoders (Suppl. S3, S4)


@pytest.mark.parametrize("raster", [8, 11, 14, 21, 28])
@pytest.mark.parametrize(("latent", "channels"), [(1, 4), (7, 6)])
def test_object_coders_take_any_size(raster, latent, channels):
    q = ObjectEncoder(5, raster, channels, latent)(torch.randn(3, 5, raster, raster))
    assert q.mean.shape == q.std.shape == (3, latent)
    assert (q.std > 0).all()
    for shape, appearance in itertools.product(("free", "blob"), ("free", "smooth")):
        decoded = ObjectDecoder(2, raster, channels, latent, shape=shape, appearance=appearance)(q.mean)
        assert decoded.mixing_weight.shape == (3, 1, raster, raster)
        assert decoded.appearance.shape == (3, 2, raster, raster)
        assert ((decoded.mixing_weight > 0) & (decoded.mixing_weight < 1)).all()


@pytest.mark.parametrize("size", [32, 80, 96])
@pytest.mark.parametrize(("latent", "n_channels"), [(1, 1), (6, 3)])
def test_background_coders_take_any_size(size, latent, n_channels):
    q = BackgroundEncoder(8, 4, latent)(torch.randn(2, 8, size // 16, size // 16))
    assert q.mean.shape == q.std.shape == (2, latent)
    assert (q.std > 0).all()
    assert BackgroundDecoder(n_channels, size, 4, latent)(q.mean).shape == (2, n_channels, size, size)


@pytest.mark.parametrize("shape", ["free", "blob"])
def test_masks_start_as_discs_in_their_boxes(shape):
    weight = build(shape=shape).decode(torch.zeros(1, 1, 3))[0][0, 0]
    centre, edge = slice(3, 5), [0, -1]
    assert weight[centre, centre].min() > 0.5
    assert weight[edge].max() < 0.5
    assert weight[:, edge].max() < 0.5


def test_a_smooth_appearance_is_a_tilted_plane():
    decoder = ObjectDecoder(2, 9, 4, 3, shape="free", appearance="smooth")
    appearance = decoder(torch.randn(4, 3, generator=torch.Generator().manual_seed(0))).appearance.detach()
    for axis in (-2, -1):
        steps = appearance.diff(dim=axis)
        np.testing.assert_allclose(steps, steps.mean((-2, -1), keepdim=True).expand_as(steps), atol=1e-5)
        assert steps.abs().max() > 1e-3


def test_a_free_appearance_may_have_any_texture():
    decoder = ObjectDecoder(1, 8, 4, 3, shape="free", appearance="free")
    appearance = decoder(torch.randn(1, 3, generator=torch.Generator().manual_seed(0))).appearance
    assert appearance.diff(n=2, dim=-1).abs().max() > 1e-4


def outline(mask: BlobMask, coefficients: Tensor, y: float, x: float) -> float:
    """The logit of a blob at one point, from the formula; coefficients (7,) after their bounds."""
    a0, a1, b1, a2, b2, a3, b3 = coefficients.tolist()
    angle = np.arctan2(y, x)
    log_radius = (
        a0
        + a1 * np.cos(angle)
        + b1 * np.sin(angle)
        + a2 * np.cos(2 * angle)
        + b2 * np.sin(2 * angle)
        + a3 * np.cos(3 * angle)
        + b3 * np.sin(3 * angle)
    )
    return mask.log_slope.exp().item() * (0.8 * np.exp(log_radius) - np.hypot(y, x))


def test_a_blob_is_its_formula():
    torch.manual_seed(0)
    mask, z = BlobMask(3, 10), torch.randn(1, 3)
    bounded = (torch.tanh(mask.coefficients(z)) * torch.tensor([0.2, 0.2, 0.2, 0.35, 0.35, 0.1, 0.1]))[0]
    logit = mask(z)[0, 0].detach()
    centre = (np.arange(10) + 0.5) / 10 * 2 - 1
    expected = [[outline(mask, bounded, y, x) for x in centre] for y in centre]
    np.testing.assert_allclose(logit, expected, atol=1e-5)


def best_blob_overlap(wanted: Tensor, *, steps: int = 300) -> float:
    """Intersection over union of a mask (R, R) and the blob that comes nearest to it."""
    torch.manual_seed(0)
    mask, code = BlobMask(8, len(wanted)), torch.zeros(1, 8, requires_grad=True)
    optimiser = torch.optim.Adam([code, *mask.coefficients.parameters()], 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(mask(code)[0, 0], wanted)
        loss.backward()
        optimiser.step()
    found = mask(code)[0, 0] > 0
    return float((found & (wanted > 0.5)).sum() / (found | (wanted > 0.5)).sum())


def test_a_blob_can_be_an_ellipse_and_cannot_be_two_discs():
    """An ellipse of axes 3 : 2 at 45 degrees, and two touching discs along the same diagonal, in their boxes."""
    y, x = torch.meshgrid(*[(torch.arange(40) + 0.5) / 20 - 1] * 2, indexing="ij")
    along, across = (x + y) / 2**0.5, (x - y) / 2**0.5
    ellipse = (along**2 + (1.5 * across) ** 2 < 1).float()
    discs = ((along.abs() - 0.55) ** 2 + across**2 < 0.5**2).float()
    assert best_blob_overlap(ellipse) > 0.95
    assert best_blob_overlap(discs) < 0.85


# Proposals


def test_proposals_start_near_the_prior():
    head = ProposalHead(6, initial_prob=0.07)
    head.initialise()
    proposals = head(torch.randn(2, 6, 3, 4))
    np.testing.assert_allclose(torch.sigmoid(proposals.presence_logit).detach(), 0.07, rtol=1e-5)
    assert proposals.presence_logit.shape == (2, 12)
    assert proposals.z_where.mean.shape == proposals.z_where.std.shape == (2, 12, 4)
    assert (proposals.z_where.std > 0).all()


def test_proposals_follow_the_grid_row_by_row():
    """What point (row, column) proposes depends on the features there alone."""
    head = ProposalHead(6, initial_prob=0.07)
    features = torch.randn(1, 6, 3, 4)
    changed = features.clone()
    changed[..., 1, 2] += 1
    difference = head(changed).z_where.mean - head(features).z_where.mean
    assert difference.abs().sum(-1).nonzero().tolist() == [[0, 1 * 4 + 2]]


def test_resetting_presence_leaves_the_boxes_alone():
    head = ProposalHead(6, initial_prob=0.07)
    torch.nn.init.normal_(head.out.weight)
    features = torch.randn(1, 6, 3, 4)
    before = head(features)
    head.reset_presence()
    after = head(features)
    np.testing.assert_allclose(torch.sigmoid(after.presence_logit).detach(), 0.07, rtol=1e-5)
    assert same(before.z_where, after.z_where)


# Sizes


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_infers(preset):
    model = StructuredVAE(ModelConfig(**PRESETS[preset])).eval()
    posterior = infer(model, windows(model, 1)).posterior
    assert render(posterior).reconstruction.shape == (1, 1, 80, 80)


def test_the_preset_of_a_model_is_known():
    for preset, sizes in PRESETS.items():
        assert preset_of(ModelConfig(**sizes, latent_dim=3, shape="blob", window_size=48)) == preset
    assert preset_of(ModelConfig(raster=21)) is None


def test_a_config_survives_json():
    config = tiny_config(object_size=(7.5, 20.0), n_channels=2)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("smallest", "pitch"), [(1.0, 4), (4.0, 4), (7.9, 4), (8.0, 8), (40.0, 8)])
def test_the_object_grid_is_as_fine_as_the_smallest_object(smallest, pitch):
    assert 2 ** grid_level_for(smallest) == pitch


def test_an_unknown_device_is_refused_with_a_remedy():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device='nonsense'.*auto"):
        resolve_device("nonsense")


@pytest.mark.parametrize(
    ("capabilities", "enabled"),
    [({"avx512_bf16": True}, True), ({"avx512_bf16": False}, False), (None, False)],
)
def test_a_cpu_computes_in_bfloat16_where_torch_knows_that_it_can(monkeypatch, capabilities, enabled):
    if capabilities is None:  # a torch older than the question
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    with autocast_for(torch.device("cpu")):
        assert torch.is_autocast_enabled("cpu") is enabled


# Inference (Sec. 2.1)


def test_masks_stay_open_while_the_warm_up_holds_them():
    model, hold = build(), Exploration(warmup=0.4, rank_score=0.0, mask_hold=1.0)
    torch.nn.init.constant_(model.object_decoder.template, -50)
    held = infer(model, windows(model), draw_noise(model), exploration=hold).posterior.mixing_weight
    assert torch.equal(held, model.object_decoder.disc.expand_as(held))
    half = infer(model, windows(model), draw_noise(model), exploration=hold._replace(mask_hold=0.5)).posterior
    np.testing.assert_allclose(half.mixing_weight, held / 2, atol=1e-6)


def test_an_object_that_draws_no_pixel_is_none():
    model = build()
    torch.nn.init.zeros_(model.proposal_head.out.bias)
    noise = draw_noise(model)
    assert infer(model, windows(model), noise).posterior.presence.any()
    torch.nn.init.constant_(model.object_decoder.template, -50)
    assert not infer(model, windows(model), noise).posterior.presence.any()


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"n_channels": 3},
        {"appearance": "free", "n_channels": 2},
        {"raster": 10, "latent_dim": 1, "background_latent_dim": 5},
        {"grid_level": 2, "object_size": (4.0, 20.0)},
        {"unet_depth": 3, "fine_level": 0, "grid_level": 3},
        {"window_size": 48, "fine_level": 2},
    ],
    ids=str,
)
def test_inference_has_the_promised_shapes(sizes):
    model = build(**sizes)
    c = model.config
    # A presence probability near one half, so that slots are used.
    torch.nn.init.zeros_(model.proposal_head.out.bias)
    inference = infer(model, windows(model), draw_noise(model))
    posterior, points = inference.posterior, c.grid_shape[0] * c.grid_shape[1]
    slots = posterior.presence.shape[1]
    assert 1 < slots <= MAX_OBJECTS
    size = (c.window_size, c.window_size)
    shapes = {
        "presence": (3, slots),
        "presence_prob": (3, slots),
        "grid_index": (3, slots),
        "mixing_weight": (3, slots, c.raster, c.raster),
        "appearance": (3, slots, c.n_channels, c.raster, c.raster),
        "background": (3, c.n_channels, *size),
    }
    assert {name: tuple(getattr(posterior, name).shape) for name in shapes} == shapes
    assert all(side.shape == (3, slots) for side in posterior.boxes)
    assert posterior.z_where.mean.shape == (3, slots, 4)
    assert posterior.z_what.mean.shape == posterior.z_what.std.shape == (3, slots, c.latent_dim)
    assert posterior.z_background.mean.shape == (3, c.background_latent_dim)
    assert inference.proposals.presence_logit.shape == inference.grid_presence.shape == (3, points)
    assert inference.grid_boxes.x.shape == (3, points)
    assert all(torch.isfinite(tensor.float()).all() for tensor in tensors(posterior))
    assert render(posterior).mixing_prob.shape == (3, slots, *size)


def check_mixing(posterior: WindowPosterior) -> None:
    mixing_prob = render(posterior).mixing_prob
    assert (mixing_prob >= 0).all()
    assert (mixing_prob.sum(1) <= 1 + 1e-5).all()
    assert (mixing_prob[posterior.presence == 0] == 0).all()


def test_a_posterior_sample_is_a_function_of_windows_and_noise(model):
    torch.nn.init.zeros_(model.proposal_head.out.bias)
    image, noise = windows(model), draw_noise(model)
    first = infer(model, image, noise)
    torch.manual_seed(123)
    assert same(first, infer(model, image, noise))
    other = infer(model, image, draw_noise(model, seed=1))
    assert not torch.equal(first.grid_presence, other.grid_presence)
    assert not torch.equal(first.posterior.background, other.posterior.background)
    assert not torch.equal(first.grid_boxes.x, other.grid_boxes.x)
    check_mixing(first.posterior)


def test_the_features_serve_many_samples(model):
    image = windows(model)
    with torch.no_grad():
        features = model.features(image)
        for seed in (0, 1):
            noise = draw_noise(model, seed=seed)
            options = {"max_objects": MAX_OBJECTS, "overlap_threshold": ALPHA}
            sample = model.sample_posterior(image, features, noise, **options)
            assert same(sample, infer(model, image, noise))


def test_a_windows_posterior_does_not_depend_on_its_neighbours_in_the_batch(model):
    torch.nn.init.zeros_(model.proposal_head.out.bias)
    image, noise = windows(model), draw_noise(model)
    together = infer(model, image, noise).posterior
    for b in range(3):
        alone = infer(model, image[b : b + 1], Noise(*(part[b : b + 1] for part in noise))).posterior
        slots = alone.presence.shape[1]
        assert together.presence[b, slots:].sum() == 0
        assert torch.equal(together.grid_index[b, :slots], alone.grid_index[0])
        drawn_together, drawn_alone = render(together).reconstruction[b], render(alone).reconstruction[0]
        np.testing.assert_allclose(drawn_together, drawn_alone, atol=1e-2 if _in_bfloat16() else 1e-5)


def _in_bfloat16() -> bool:
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def test_without_noise_the_most_probable_values_are_taken(model):
    torch.nn.init.normal_(model.proposal_head.out.weight, generator=torch.Generator().manual_seed(0))
    torch.nn.init.zeros_(model.proposal_head.out.bias)
    image = windows(model)
    inference = infer(model, image)
    assert same(inference, infer(model, image))
    prob = torch.sigmoid(inference.proposals.presence_logit)
    assert torch.equal(inference.grid_presence, (prob > 0.5).float())
    assert 0 < inference.grid_presence.mean() < 1
    with torch.no_grad(), autocast_for(image.device):
        boxes = model.box_code(inference.proposals.z_where.mean, model.config.grid_shape)
        weight, _ = model.decode(inference.posterior.z_what.mean)
        background = model.background_decoder(inference.posterior.z_background.mean)
    assert same(inference.grid_boxes, boxes)
    assert torch.equal(inference.posterior.mixing_weight, weight)
    assert torch.equal(inference.posterior.background, background)


def with_presence_logit(model: StructuredVAE, logit: float) -> StructuredVAE:
    model.proposal_head.reset_presence()
    torch.nn.init.constant_(model.proposal_head.out.bias[:1], logit)
    return model


@pytest.mark.parametrize("noisy", [True, False])
def test_a_window_without_objects_is_its_background(model, noisy):
    image = windows(model)
    inference = infer(with_presence_logit(model, -50), image, draw_noise(model) if noisy else None)
    posterior = inference.posterior
    assert posterior.presence.sum() == 0
    assert posterior.presence.shape == (3, 1)
    assert (render(posterior).mixing_prob == 0).all()
    assert torch.equal(render(posterior).reconstruction, posterior.background)


def test_a_full_window_has_at_most_max_objects_and_no_two_on_top_of_each_other(model):
    posterior = infer(with_presence_logit(model, 50), windows(model), draw_noise(model)).posterior
    assert posterior.presence.sum(1).max() <= MAX_OBJECTS
    assert posterior.presence.sum() > 3
    overlap = intersection_over_minimum(posterior.boxes, posterior.boxes)
    pairs = (posterior.presence.unsqueeze(-1) * posterior.presence.unsqueeze(-2)).triu(1) > 0
    assert (overlap[pairs] <= ALPHA).all()
    check_mixing(posterior)


def test_slots_belong_to_their_point_of_the_grid(model):
    inference = infer(with_presence_logit(model, 50), windows(model), draw_noise(model))
    posterior = inference.posterior
    assert same(posterior.boxes, inference.grid_boxes.take(posterior.grid_index))
    assert same(posterior.z_where, inference.proposals.z_where.take(posterior.grid_index))


def test_the_warmup_finds_what_the_background_leaves_over(model):
    """With f = 1 the residual alone decides: the box with the largest residual is on, the smallest off."""
    model = with_presence_logit(model, -50)
    image = torch.zeros(1, 1, 32, 32)
    image[..., 18:30, 18:30] = 30
    noise = draw_noise(model, 1)
    noise = noise._replace(
        presence=torch.full_like(noise.presence, 0.9), z_where=torch.zeros_like(noise.z_where)
    )
    for f, found in ((0.0, 0), (1.0, 1)):
        posterior = infer(model, image, noise, exploration=Exploration(warmup=f, rank_score=1 / 3)).posterior
        assert posterior.presence.sum() == found
    x, y = posterior.boxes.x[0, 0], posterior.boxes.y[0, 0]
    assert 16 < x < 32
    assert 16 < y < 32


@pytest.mark.parametrize("appearance", ["smooth", "free"])
@pytest.mark.parametrize("shape", ["free", "blob"])
def test_networks_in_bfloat16_leave_geometry_and_likelihood_in_single_precision(
    monkeypatch, shape, appearance
):
    """What a GPU does, emulated: nothing after the networks may be computed, or come out, in bfloat16."""
    monkeypatch.setattr(structured_vae, "autocast_for", lambda device: torch.autocast("cpu", torch.bfloat16))
    model = with_presence_logit(build(shape=shape, appearance=appearance), 50)
    assert model.features(windows(model)).fine.dtype == torch.bfloat16, "the emulation has to work"
    inference = infer(model, windows(model), draw_noise(model))
    floats = [tensor for tensor in tensors(inference) if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert render(inference.posterior).reconstruction.dtype == torch.float32


# Generation (Sec. 2)


@pytest.mark.parametrize("sizes", [{}, {"n_channels": 3, "appearance": "free"}], ids=str)
def test_generated_windows_come_from_the_prior(sizes):
    model = build(**sizes)
    posterior = model.generate(200, np.random.default_rng(0))
    assert posterior.presence.sum(1).mean().item() == pytest.approx(model.config.expected_objects, abs=0.3)
    codes = posterior.z_what.mean.flatten()
    assert codes.mean().item() == pytest.approx(0, abs=0.1)
    assert codes.std().item() == pytest.approx(1, abs=0.1)
    low, high = model.config.object_size
    assert low <= posterior.boxes.width.min()
    assert posterior.boxes.width.max() <= high
    for index, presence in zip(posterior.grid_index, posterior.presence, strict=True):
        chosen = index[presence > 0]
        assert len(chosen.unique()) == len(chosen)
    check_mixing(posterior)
    assert render(posterior).reconstruction.shape == (200, model.config.n_channels, 32, 32)


def test_generation_is_a_function_of_its_random_numbers(model):
    first, again, other = (model.generate(3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert same(first, again)
    assert not torch.equal(first.background, other.background)


def test_the_decoder_draws_the_same_object_in_inference_and_from_its_code(model):
    posterior = infer(with_presence_logit(model, 50), windows(model)).posterior
    with torch.no_grad():
        weight, appearance = model.decode(posterior.z_what.mean[:1, :2])
    np.testing.assert_allclose(
        weight[0], posterior.mixing_weight[0, :2], atol=1e-2 if _in_bfloat16() else 1e-5
    )
    np.testing.assert_allclose(
        appearance[0], posterior.appearance[0, :2], atol=1e-1 if _in_bfloat16() else 1e-5
    )


def test_posteriors_start_well_inside_the_prior_and_are_never_certain():
    raw = torch.tensor([0.0, -60.0, 60.0], dtype=torch.bfloat16)
    posterior = gaussian_posterior(raw, raw)
    assert {posterior.mean.dtype, posterior.std.dtype} == {torch.float32}
    torch.testing.assert_close(posterior.std, torch.tensor([0.1012, 1e-3, 57.751]), rtol=1e-3, atol=0)


def test_threads_follow_the_work():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for n_pixels, expected in ((128**2, 1), (1024**2, 4), (768**2, 2), (4096**2, 4)):
            with threads_for(n_pixels):
                assert torch.get_num_threads() == expected
        with pytest.raises(ZeroDivisionError), threads_for(1):
            raise ZeroDivisionError
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_work_that_overlaps_leaves_the_threads_as_they_were():
    """The second begins within the first, and ends after it."""
    before = torch.get_num_threads()
    first_is_at_work, second_is_at_work = threading.Event(), threading.Event()
    found = []

    def first_work():
        with threads_for(1):
            first_is_at_work.set()
            second_is_at_work.wait(10)

    def second_work():
        first_is_at_work.wait(10)
        with threads_for(1):
            second_is_at_work.set()
            first.join()
        found.append(torch.get_num_threads())

    def later():
        found.append(torch.get_num_threads())

    try:
        torch.set_num_threads(4)
        first, second = threading.Thread(target=first_work), threading.Thread(target=second_work)
        first.start()
        second.start()
        second.join()
        new = threading.Thread(target=later)
        new.start()
        new.join()
        assert found == [4, 4]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
