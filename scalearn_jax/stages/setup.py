"""What a training run is made of: its config, its tasks with their data, its model and its first parameters.

Letters: M members (seeds trained together).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

from jax.sharding import Mesh

from scalearn_jax import methods, model
from scalearn_jax.config import JointConfig, TrainConfig
from scalearn_jax.data import tokens
from scalearn_jax.data.mixture import Mixture
from scalearn_jax.data.tasks import Task
from scalearn_jax.runs.sources import Source
from scalearn_jax.stages import soup
from scalearn_jax.stages.given import NOTHING, Given
from scalearn_jax.train.evaluate import MEAN_METRIC, Layout
from scalearn_jax.typing import Params


@dataclasses.dataclass(frozen=True)
class Data:
    """The three encoded splits of a task."""

    train: tokens.Encoded
    dev: tokens.Encoded
    test: tokens.Encoded


class Part(NamedTuple):
    """One of the tasks that a run trains on."""

    task: Task  # with the config's length
    data: Data


@dataclasses.dataclass(frozen=True)
class Setup:
    """Everything a training run needs, checked and resolved."""

    config: TrainConfig
    method: methods.Method
    parts: tuple[Part, ...]  # one, or in a joint run those of its tasks, in the order of their numbers
    spec: model.ModelSpec
    sources: Sequence[Source]  # in bank order
    backbone_hash: str
    trainable: Params  # the first, leading axis M
    frozen: Params  # shared by the members, but for ``state.own_part``
    mesh: Mesh
    source_weights: soup.Soup | None = None  # where they are computed
    given: Given = NOTHING  # what was passed as objects

    @property
    def task(self) -> Task:
        """The only task."""
        return self._only.task

    @property
    def data(self) -> Data:
        """The data of the only task."""
        return self._only.data

    @property
    def _only(self) -> Part:
        assert not self.is_joint, "a joint run has several tasks; go through its parts"
        return self.parts[0]

    @property
    def is_joint(self) -> bool:
        """Whether it trains on several tasks at once."""
        return isinstance(self.config, JointConfig)

    @property
    def name(self) -> str:
        """What to call what it trains on."""
        return f"{len(self.parts)} tasks" if self.is_joint else self.task.name

    @property
    def main_metric(self) -> str:
        """What members are compared by, other than the loss; in a joint run the mean of the tasks' own."""
        return MEAN_METRIC if self.is_joint else self.task.metrics[0]

    @property
    def num_examples(self) -> int:
        """Training examples, of all tasks."""
        return sum(len(part.data.train) for part in self.parts)

    @property
    def row_length(self) -> int:
        """Slots of a row, enough for a sequence of any task."""
        return max(part.task.max_length for part in self.parts)

    @property
    def mixture(self) -> Mixture:
        """The stream of a joint run."""
        sizes = tuple(len(part.data.train) for part in self.parts)
        return Mixture(sizes, self.config.batch_size, self.config.temperature)

    @property
    def sampler_seeds(self) -> list[int]:
        """The seed of the order of examples, and in a joint run of tasks, of each member."""
        own = getattr(self.config, "sampler_seed", None)
        return [seed if own is None else own for seed in self.config.seeds]

    @functools.cached_property
    def evaluation_layout(self) -> Layout:
        """The layout that all held-out sets share, so that one program serves them."""
        held_out = [split for part in self.parts for split in (part.data.dev, part.data.test)]
        size, packed = self.config.eval_batch_size, self.config.packed
        return Layout.of(held_out, self.row_length, size, packed=packed, mesh=self.mesh)
