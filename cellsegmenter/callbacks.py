"""Who looks on while a model is trained: TensorBoard, and the callbacks of scikit-learn 1.9 and newer.

Both hear of every row of the history, that is of every ten steps.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cellsegmenter.learning import Learned, learned_from
from cellsegmenter.model.structured_vae import StructuredVAE
from cellsegmenter.training.loop import HISTORY_INTERVAL, Run

try:
    from sklearn.callback import CallbackSupportMixin as CallbackSupport
    from sklearn.callback import with_callbacks
except ImportError:  # before scikit-learn 1.9

    class CallbackSupport:  # type: ignore[no-redef]
        """Stands in for scikit-learn's mixin."""

    def with_callbacks(method: Callable[..., Any]) -> Callable[..., Any]:
        """Stands in for scikit-learn's decorator."""
        return method


__all__ = ["CallbackSupport", "learn_observed"]

Observer = Callable[[Run], bool]  # looks at a run; True ends it
Attributes = dict[str, Any]  # of a fitted estimator, by name


@with_callbacks  # ends the callbacks, whether the training succeeds or not
def learn_observed(
    estimator: Any,
    data: tuple[Any, Any],
    n_steps: int,
    train: Callable[[Observer], Attributes],
    as_fitted: Callable[[StructuredVAE, Learned], Attributes],
) -> Attributes:
    """Train while those look on whom the estimator names.

    Parameters
    ----------
    estimator : CellSegmenter
        Its ``tensorboard`` is the folder for TensorBoard, if not None.
    data : (X, y)
        What `fit` was given; handed on to the callbacks.
    n_steps : int
        Of the training, at most.
    train : callable
        Does it, and gives the attributes of the fitted estimator.
    as_fitted : callable
        Gives these attributes for a model and its history, for callbacks that ask for the estimator as if the
        training had stopped.

    Returns
    -------
    dict
        What `train` gives.
    """
    observers: list[Observer] = []
    task = None
    with ExitStack() as stack:
        if estimator.tensorboard is not None:
            observers.append(stack.enter_context(_tensorboard(Path(estimator.tensorboard))))
        if hasattr(estimator, "_init_callback_context"):
            task = _FitTask(estimator, data, n_steps, as_fitted)
            observers.append(task.observe)
        attributes = train(lambda run: any([observe(run) for observe in observers]))
    if task is not None:
        task.end(attributes)
    return attributes


class _FitTask:
    """The task `fit` as scikit-learn's callbacks see it: each row of the history is a subtask."""

    def __init__(self, estimator: Any, data: tuple[Any, Any], n_steps: int, as_fitted: Any) -> None:
        self.data = {"estimator": estimator, "X": data[0], "y": data[1]}
        self.as_fitted = as_fitted
        self.context = estimator._init_callback_context(max_subtasks=-(-n_steps // HISTORY_INTERVAL))
        self.context.call_on_fit_task_begin(**self.data)

    def observe(self, run: Run) -> bool:
        row = self.context.subcontext(task_name=f"{HISTORY_INTERVAL} steps")
        row.call_on_fit_task_begin(**self.data)
        return row.call_on_fit_task_end(**self.data, reconstruction_attributes=lambda: self._as_if_ended(run))

    def end(self, attributes: Attributes) -> None:
        self.context.call_on_fit_task_end(**self.data, reconstruction_attributes=attributes)

    def _as_if_ended(self, run: Run) -> Attributes:
        """With a copy of the model that holds the average of its weights, as at the end of a training."""
        model = copy.deepcopy(run.model)
        model.load_state_dict(run.average)
        return self.as_fitted(model.eval(), learned_from(list(run.history), run.objective))


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Observer]:
    """Write each row as scalars, flushed at once so that a running training can be watched."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:

        def observe(run: Run) -> bool:
            row = run.history[-1]
            for name, value in row.items():
                if name not in ("step", "seconds"):
                    writer.add_scalar(_tag(name), value, int(row["step"]))
            writer.flush()
            return False

        yield observe


def _tag(column: str) -> str:
    """TensorBoard draws what shares the word before a slash together."""
    for group, names in _GROUPS.items():
        if column in names:
            return f"{group}/{column}"
    group, _, name = column.partition("_")
    return f"{group}/{name}" if group in ("penalty", "dpp") else column


_GROUPS = {
    "loss": ("loss", "reconstruction", "latent_divergence", "presence", "boxes", "lesson", "overlap"),
    "constraints": ("objects", "proposed_objects", "area"),
    "schedule": ("learning_rate", "warmup"),
}
