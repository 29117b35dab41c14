"""The methods: one row holds everything that distinguishes a run.

A new baseline is a new row. Rates, patience and epochs are the published ones (method.md, "Published settings").
"""

from dataclasses import dataclass, field
from typing import Any

from scalearn_jax.errors import InputError, unknown

GROUPS = {"backbone": "backbone", "adapters": "adapter", "transfer": "transfer", "heads": "head"}


@dataclass(frozen=True)
class Method:
    """A choice of combiner, trainable groups and hyper-parameters.

    Attributes:
      combiner: a key of ``COMBINERS``.
      trainable: the parameter groups that learn; all others are frozen.
      learning_rate: peak rate of the linear decay.
      patience: evaluations without improvement before stopping.
      epochs: length of the schedule, in passes over the training set.
      uses_sources: whether the bank holds given source adapters; else one fresh adapter, or none.
      choice_head: kind of head on multiple-choice tasks.
      options: options of the combiner.
      coefficients: what becomes of the constants of combiner ``"fixed"`` where nobody gives them: ``"equal"``, 2 / T
        each; or ``"best"``, one source alone, chosen by leave-one-out.
      shuffles_sources: whether the numbers of each source are put in a random order first, so that nothing is left of
        what it has learned but their size.
      frozen: paths in the trainable groups below which nothing learns; each seed keeps what it has drawn.
      factors: (text in a path, factor) of the leaves that learn at so many times the rate.
      about: one line for ``scalearn list methods``.
    """

    combiner: str
    trainable: tuple[str, ...]
    learning_rate: float
    about: str
    patience: int = 5
    epochs: int = 30
    uses_sources: bool = True
    choice_head: str = "pooled"
    options: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    coefficients: str | None = None
    shuffles_sources: bool = False
    factors: tuple[tuple[str, float], ...] = ()

    @property
    def trains_adapter(self) -> bool:
        """Whether it trains an adapter of its own, of a width that the config decides."""
        return not self.uses_sources and self.combiner not in ("none", "ia3")

    @property
    def solves(self) -> str | None:
        """What ``--fit solve`` finds for it: ``"scales"`` with a head, a ``"head"`` alone, or ``None``: nothing."""
        if str(self.combiner) in _SCALEARN and "normalise" not in self.options:
            return "scales"
        return "head" if self.trainable == ("head",) else None


_TRANSFER = ("transfer", "head")
_SCALEARN = ("scalearn", "scalearn-uniform", "scalearn++", "scalearn-uniform++")
# The method of runs whose combiner was passed as an object; no row of the table, since no name stands for it.
OWN = "own"
_OWN = Method(OWN, _TRANSFER, 6e-3, "a combiner of your own", patience=30)


def _scalearn(combiner: str, about: str, **options) -> Method:
    return Method(combiner, _TRANSFER, 6e-3, about, patience=30, options=options)


METHODS = {
    "scalearn": _scalearn("scalearn", "a scaling vector per source and layer"),
    "scalearn-uniform": _scalearn("scalearn-uniform", "a scaling factor per source and layer"),
    "scalearn++": _scalearn("scalearn++", "a scaling vector per source, shared by the layers"),
    "scalearn-uniform++": _scalearn("scalearn-uniform++", "a scaling factor per source, shared by the layers"),
    "scalearn-mean": _scalearn("scalearn", "ScaLearn, factors divided by their sum", dropout=0.0, normalise="mean"),
    "scalearn-softmax": _scalearn("scalearn", "ScaLearn, softmax over sources", dropout=0.0, normalise="softmax"),
    "fusion": Method("fusion", _TRANSFER, 5e-5, "AdapterFusion (dynamic): attention over sources"),
    "fusion-static": Method("fusion", _TRANSFER, 5e-5, "AdapterFusion without the value map", options={"value": False}),
    "soup": Method("average", ("head",), 3e-4, "AdapterSoup: average of sources, by --weights or --top-sources"),
    "fixed": Method("fixed", ("head",), 3e-4, "constant coefficients (probing)", choice_head="two_layer"),
    "constant": Method("fixed", ("head",), 3e-4, "every source scaled by 2 / T", coefficients="equal"),
    "random-source": Method(
        "fixed",
        ("head",),
        3e-4,
        "as constant, over sources whose numbers are shuffled",
        coefficients="equal",
        shuffles_sources=True,
    ),
    "best-source": Method("fixed", ("head",), 3e-4, "the one source of least leave-one-out error", coefficients="best"),
    "single": Method(
        "single",
        ("adapter", "head"),
        3e-4,
        "one adapter trained on the task",
        uses_sources=False,
        choice_head="two_layer",
    ),
    "compacter++": Method(
        "compacter", _TRANSFER, 3e-3, "Compacter++: hyper-complex adapters", uses_sources=False, choice_head="two_layer"
    ),
    "propetl": Method(
        "propetl",
        _TRANSFER,
        1e-3,
        "ProPETL: one masked adapter for all layers",
        uses_sources=False,
        choice_head="two_layer",
        options={"masks": "trained"},
        frozen=("transfer/masks/",),
        factors=(("/scores/", 3.0),),
    ),
    "ia3": Method(
        "ia3",
        _TRANSFER,
        5e-3,
        "(IA)^3: scales on keys, values, FFN",
        uses_sources=False,
        choice_head="two_layer",
        options={"ffn_scale": "after"},
    ),
    "full": Method("none", ("backbone", "head"), 2e-5, "fine-tuning of everything", uses_sources=False),
    "head": Method("none", ("head",), 3e-4, "a head on the frozen backbone", uses_sources=False),
}


def _joint(combiner: str, trainable: tuple[str, ...], rate: float, about: str, **changes) -> Method:
    settings = dict(patience=10, epochs=14, uses_sources=False, choice_head="own_pooled") | changes
    return Method(combiner, trainable, rate, about, **settings)


# Those that train on several tasks at once, for ``scalearn train-joint``.
JOINT = {
    "full": _joint("none", ("backbone", "head"), 2e-5, "FT-m: fine-tuning of everything"),
    "adapter": _joint(
        "single", ("adapter", "head"), 3e-4, "Adapter-m: one adapter for all tasks", choice_head="linear"
    ),
    "propetl": _joint(
        "propetl-m",
        _TRANSFER,
        3e-4,
        "ProPETL-m: one adapter, masks by layer and task",
        factors=(("/scores/", 10.0),),
    ),
    "hyperformer": _joint("hyperformer", _TRANSFER, 3e-4, "HyperFormer: adapters generated for each task"),
    "hyperformer++": _joint("hyperformer++", _TRANSFER, 3e-4, "HyperFormer++: by one generator for all layers"),
}


def get_joint(name: str) -> Method:
    """Looks up a joint method.

    Raises:
      InputError: a name that is none of a joint method.

    Example:
      >>> get_joint("hyperformer").learning_rate
      0.0003
    """
    if name in JOINT:
        return JOINT[name]
    if name in METHODS or name == OWN:
        raise InputError(f"method {name!r} is not joint, it trains on one task; choose from {', '.join(JOINT)}.")
    raise unknown("joint method", name, JOINT)


def get(name: str) -> Method:
    """Looks up a method.

    Raises:
      InputError: unknown name; the nearest is named.

    Example:
      >>> get("scalearn").learning_rate
      0.006
    """
    if name == OWN:
        return _OWN
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return METHODS[name]


def label(path: str, trainable: tuple[str, ...]) -> str:
    """Labels a parameter path with its group, or ``"frozen"``.

    This one function decides both what ``tree.partition`` splits off and which optimiser a leaf gets.

    Args:
      path: for instance ``"transfer/omega"``.
      trainable: the groups that learn.

    Returns:
      ``"backbone"``, ``"adapter"``, ``"transfer"``, ``"head"`` or ``"frozen"``.

    Example:
      >>> label("transfer/omega", ("transfer", "head")), label("backbone/pooler/bias", ("head",))
      ('transfer', 'frozen')
    """
    group = GROUPS[path.split("/")[0]]
    return group if group in trainable else "frozen"


def task_of(path: str) -> str | None:
    """The task of a joint run that a leaf belongs to, which only its own steps change; ``None`` for all tasks.

    Example:
      >>> task_of("transfer/tasks/glue:rte/embedding"), task_of("heads/glue:rte/out/bias"), task_of("transfer/omega")
      ('glue/rte', 'glue/rte', None)
    """
    group, *rest = path.split("/")
    name = rest[0] if group == "heads" else rest[1] if group == "transfer" and rest[0] == "tasks" else None
    return name and name.replace(":", "/")


def is_trainable(method: Method):
    """Returns ``keep(path)`` for ``tree.partition``: whether the method trains a leaf."""
    return lambda path: label(path, method.trainable) != "frozen" and not path.startswith(method.frozen)
