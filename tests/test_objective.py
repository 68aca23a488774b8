"""The whole loss: what it does to presence and masks, and its gradient against finite differences."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from reference import duplicate_scene, tiny_config
from torch import Tensor

from cellsegmenter.model.rendering import composite
from cellsegmenter.model.structured_vae import Exploration, Inference, StructuredVAE
from cellsegmenter.training import objective as objective_module
from cellsegmenter.training import presence as presence_module
from cellsegmenter.training.constraints import PosteriorConstraints
from cellsegmenter.training.loop import draw_noise
from cellsegmenter.training.objective import Objective, ObjectiveSettings, Terms
from cellsegmenter.training.reconstruction import background_error, reconstruction_error
from cellsegmenter.types import Boxes, Gaussian, Proposals, Selection, WindowPosterior

SIGMA = 0.3
BOUNDS = {"reconstruction": (0.0, 1.0), "density": (0.2, 0.6), "area": (0.05, 0.3)}


def scene_inference(posterior: WindowPosterior, logit: Tensor) -> Inference:
    """The inference around a scene; grid boxes lie on their own cells, except for the slots'."""
    cell, side = torch.arange(16), torch.full((1, 16), 8.0)
    x, y = 8.0 * (cell % 4).unsqueeze(0) + 4, 8.0 * (cell // 4).unsqueeze(0) + 4
    pairs = zip((x, y, side, side), posterior.boxes, strict=True)
    boxes = Boxes(*(field.scatter(1, posterior.grid_index, own) for field, own in pairs))
    selection = Selection(posterior.grid_index, torch.ones(1, 3).bool(), torch.zeros(1, 16).bool())
    proposals = Proposals(logit, Gaussian(torch.zeros(1, 16, 4), torch.ones(1, 16, 4)))
    grid_presence = torch.zeros(1, 16).scatter(1, posterior.grid_index, posterior.presence)
    return Inference(posterior, proposals, boxes, selection, grid_presence)


@pytest.fixture
def model() -> StructuredVAE:
    torch.manual_seed(0)
    return StructuredVAE(tiny_config())


def make_objective(
    bounds: dict[str, tuple[float, float]] = BOUNDS, *, sapr: bool = True, **settings
) -> Objective:
    settings = {"noise_scale": SIGMA, "overlap_threshold": 0.4} | settings
    return Objective(PosteriorConstraints(bounds, enabled=sapr), ObjectiveSettings(**settings))


def test_training_presence_keeps_the_object_and_drops_its_copy_and_the_false_one(model):
    posterior, image = duplicate_scene()
    objective = make_objective(sapr=False)
    logit = torch.zeros(1, 16, requires_grad=True)
    optimizer = torch.optim.SGD([logit], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        objective(model, image, scene_inference(posterior, logit)).presence.backward()
        optimizer.step()
    prob = torch.sigmoid(logit.detach()[0])
    assert prob[5] > 0.9
    assert prob[6] < 0.4
    assert prob[15] < 0.1
    idle = torch.ones(16).bool()
    idle[posterior.grid_index[0]] = False
    assert prob[idle].max() < 0.1


def presence_gradient(model: StructuredVAE, objective: Objective) -> Tensor:
    """d loss / d logit of the object's copy in the scene of duplicates: positive pulls it off."""
    posterior, image = duplicate_scene()
    logit = torch.zeros(1, 16, requires_grad=True)
    objective(model, image, scene_inference(posterior, logit)).loss.backward()
    return logit.grad[0, 6]


@pytest.mark.parametrize("name", ["density", "area"])
def test_bounds_drive_the_presence_targets(model, name):
    """One more object is welcome while there are too few, or too little area, and costs when there is too much."""
    few = presence_gradient(model, make_objective(BOUNDS | {name: (0.9, 0.95)}))
    many = presence_gradient(model, make_objective(BOUNDS | {name: (0.0, 0.01)}))
    assert few < many
    off = [
        presence_gradient(model, make_objective(BOUNDS | {name: bounds}, sapr=False))
        for bounds in ((0.9, 0.95), (0.0, 0.01))
    ]
    assert off[0] == off[1], "without SAPR the bounds do nothing"


def test_cells_that_an_object_covers_are_pulled_off_and_others_of_the_suppressed_left_alone(model):
    posterior, image = duplicate_scene()
    logit = torch.zeros(1, 16, requires_grad=True)
    inference = scene_inference(posterior, logit)
    x, y = inference.grid_boxes.x.clone(), inference.grid_boxes.y.clone()
    x[0, 9], y[0, 9] = 15.0, 13.0  # overlaps the object, but is another box
    suppressed = inference.selection.suppressed.clone()
    suppressed[0, [0, 9]] = True
    inference = inference._replace(
        grid_boxes=inference.grid_boxes._replace(x=x, y=y),
        selection=inference.selection._replace(suppressed=suppressed),
    )
    make_objective()(model, image, inference).presence.backward()
    assert logit.grad[0, 9] > 0
    assert logit.grad[0, 0] == 0


# The whole loss


class FrozenConstants:
    """Stop-gradients as constants: recorded while a loss is computed first, replayed while it is computed again.

    The objective stops gradients on purpose: signs and margins of SAPR, presence targets, boxes to aim at, the
    crops' boxes.  Its gradient is that of the loss with these values held fixed: so finite differences check it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recorded: list[Any] = []
        self.replayed: Iterator[Any] | None = None
        monkeypatch.setattr(torch.Tensor, "detach", self._constant(torch.Tensor.detach))
        for module, name in ((objective_module, "presence_target"), (presence_module, "mask_boxes")):
            monkeypatch.setattr(module, name, self._constant(getattr(module, name)))

    def _constant(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def recorded_or_replayed(*arguments: Any, **options: Any) -> Any:
            if self.replayed is not None:
                return next(self.replayed)
            self.recorded.append(function(*arguments, **options))
            return self.recorded[-1]

        return recorded_or_replayed

    def replay(self) -> None:
        self.replayed = iter(self.recorded)


@pytest.fixture
def double_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the model computes in single precision, networks and geometry, it computes in double."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(default)


class TinyProblem:
    """A tiny model, its objective, two windows and the random numbers of a step."""

    def __init__(self, update: str, appearance: str = "smooth", **settings) -> None:
        torch.manual_seed(3)
        self.model = StructuredVAE(tiny_config(appearance=appearance, n_channels=2)).train()
        for name, parameter in self.model.named_parameters():
            if name.endswith("bias"):  # no unit exactly at the kink of its ReLU
                torch.nn.init.normal_(parameter, std=0.1)
        self.objective = make_objective(overlap_weight=0.7, presence_update=update, **settings).eval()
        generator = torch.Generator().manual_seed(4)
        self.image = torch.rand(2, 2, 32, 32, generator=generator)
        self.noise = draw_noise(2, self.model, 6, generator)
        self.exploration = Exploration(0.2, 0.3, straight_through=update == "straight_through")

    def infer(self) -> Inference:
        return self.model.infer(
            self.image, self.noise, max_objects=6, overlap_threshold=0.4, exploration=self.exploration
        )

    def terms(self) -> Terms:
        return self.objective(self.model, self.image, self.infer())

    def parameters(self, module: str) -> list[Tensor]:
        owner = self.objective if module == "constraints" else self.model
        return list(owner.get_submodule(module).parameters())


def directional_derivatives(
    value: Callable[[], Tensor], parameters: list[Tensor], before: Callable[[], None], step: float = 1e-6
) -> tuple[float, float]:
    """Along a random direction: by autograd, and by central differences; `before` runs ahead of the latter's calls."""
    generator = torch.Generator().manual_seed(5)
    direction = [torch.randn(p.shape, generator=generator) for p in parameters]
    gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    values = []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign * step)
            before()
            values.append(float(value()))
    return slope, (values[0] - values[1]) / (2 * step)


MODULES = [
    "unet",
    "proposal_head",
    "box_code",
    "presence_prior",
    "object_encoder",
    "object_decoder",
    "background_encoder",
    "background_decoder",
    "constraints",
]


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("update", "appearance"), [("mean_field", "smooth"), ("mean_field", "free"), ("straight_through", "free")]
)
def test_the_losss_gradient_is_that_of_finite_differences(update, appearance, module, monkeypatch):
    problem = TinyProblem(update, appearance)
    constants = FrozenConstants(monkeypatch)
    slope, difference = directional_derivatives(
        lambda: problem.terms().loss, problem.parameters(module), constants.replay
    )
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)
    assert abs(slope) > 1e-4, f"{module} does not learn"


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(
    "module", ["object_encoder", "object_decoder", "background_encoder", "background_decoder"]
)
def test_nothing_is_stopped_on_the_way_from_codes_to_the_bound(module):
    """L_rec, L_KL and the overlap depend on encoders and decoders without any constant in between."""
    problem = TinyProblem("mean_field")

    def bound() -> Tensor:
        terms = problem.terms()
        return terms.reconstruction + terms.latent + terms.overlap

    slope, difference = directional_derivatives(bound, problem.parameters(module), lambda: None)
    assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6)
    assert abs(slope) > 1e-4


@pytest.mark.usefixtures("double_precision")
def test_straight_through_passes_the_gradient_of_presence_to_its_probability():
    problem = TinyProblem("straight_through")
    inference = problem.infer()
    posterior, logit = inference.posterior, inference.proposals.presence_logit
    background = background_error(posterior, problem.image)
    error = reconstruction_error(composite(posterior, problem.image), background, SIGMA).sum()
    (gradient,) = torch.autograd.grad(error, logit, retain_graph=True)

    presence = posterior.presence.detach().requires_grad_()
    objects = composite(posterior._replace(presence=presence), problem.image)
    error = reconstruction_error(objects, background, SIGMA).sum()
    (by_presence,) = torch.autograd.grad(error, presence)
    prob = torch.sigmoid(logit).gather(1, posterior.grid_index)
    by_logit = by_presence * prob * (1 - prob) * (1 - problem.exploration.warmup) * inference.selection.valid
    expected = torch.zeros_like(gradient).scatter(1, posterior.grid_index, by_logit)
    np.testing.assert_allclose(gradient, expected.detach(), atol=1e-9)
    assert (gradient != 0).sum() > 3


@pytest.mark.usefixtures("double_precision")
def test_mean_field_presence_learns_from_its_target_alone():
    problem = TinyProblem("mean_field")
    inference = problem.infer()
    terms = problem.objective(problem.model, problem.image, inference)
    logit = inference.proposals.presence_logit
    for value in (terms.reconstruction, terms.area, terms.objects, terms.overlap):
        if value.requires_grad:
            assert torch.autograd.grad(value, logit, retain_graph=True, allow_unused=True)[0] is None
    (all_terms,) = torch.autograd.grad(terms.loss, logit, retain_graph=True)
    (target_term,) = torch.autograd.grad(terms.presence, logit)
    np.testing.assert_allclose(all_terms, target_term, atol=1e-12)
    assert (target_term != 0).any()


@pytest.mark.usefixtures("double_precision")
@pytest.mark.parametrize(("density", "sign"), [((1.5, 2.0), -1), ((0.0, 0.01), 1)])
def test_straight_through_density_drives_the_probabilities(density, sign):
    """Below its bounds more presence lowers the loss, above it raises it: by the term λ u(Q) of Eq. 14."""
    problems = [
        TinyProblem("straight_through", bounds=BOUNDS | {"density": density}, sapr=on) for on in (True, False)
    ]
    gradients = []
    for problem in problems:
        inference = problem.infer()
        terms = problem.objective(problem.model, problem.image, inference)
        gradients.append(torch.autograd.grad(terms.presence, inference.proposals.presence_logit)[0])
    difference = sign * (gradients[0] - gradients[1])
    assert (difference >= 0).all()
    assert (difference > 0).any()


@pytest.mark.parametrize(("slot", "costs"), [(0, True), (1, False)], ids=["present", "absent"])
def test_straight_through_area_counts_the_boxes_of_present_objects(model, slot, costs):
    """Q_area is half mask, half box (Eq. 13)."""
    posterior, image = duplicate_scene()
    objective = make_objective(BOUNDS | {"area": (0.0, 0.01)}, presence_update="straight_through")
    inference = scene_inference(posterior, torch.zeros(1, 16))
    width = posterior.boxes.width.clone().requires_grad_()
    masks = posterior.mixing_weight.clone()
    masks[:, slot] = 0  # of this object only the box is left
    posterior = posterior._replace(boxes=posterior.boxes._replace(width=width), mixing_weight=masks)
    objective(model, image, inference._replace(posterior=posterior)).loss.backward()
    assert (width.grad[0, slot] > 0) == costs
    assert width.grad[0, slot] >= 0


def test_the_area_bounds_push_the_masks(model):
    """Too little area: the loss falls as masks grow; too much: it rises."""
    posterior, image = duplicate_scene()
    slopes = []
    for bounds in ((0.9, 0.95), (0.0, 0.01)):
        weight = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
        inference = scene_inference(posterior._replace(mixing_weight=weight), torch.zeros(1, 16))
        make_objective(BOUNDS | {"area": bounds})(model, image, inference).loss.backward()
        slopes.append(weight.grad[0, 0].mean())
    assert slopes[0] < slopes[1]


def test_the_terms_report_what_the_scene_holds(model):
    posterior, image = duplicate_scene()
    terms = make_objective()(model, image, scene_inference(posterior, torch.zeros(1, 16)))
    assert terms.objects == 2
    assert terms.area.item() == pytest.approx(2 * 64 / 1024)
    assert terms.proposed.item() == pytest.approx(8)
    assert terms.overlap == 0
    false_object = 64 / 1024 / (2 * SIGMA**2)
    assert terms.reconstruction.item() == pytest.approx(false_object, rel=1e-4)


def test_the_grid_normalizer_follows_the_divergence_and_travels_with_the_penalties():
    problem = TinyProblem("straight_through")
    torch.nn.init.constant_(problem.model.proposal_head.out.bias[:1], 6.0)
    problem.objective.train()
    for _ in range(5):
        problem.terms()
    assert problem.objective.grid_normalizer > 1
    torch.nn.init.constant_(problem.objective.constraints.log_penalty, 0.5)
    copy = make_objective(presence_update="straight_through")
    copy.load_state_dict(problem.objective.state_dict())
    assert copy.grid_normalizer == problem.objective.grid_normalizer
    assert copy.constraints.penalty("area").item() == pytest.approx(math.exp(0.5))
