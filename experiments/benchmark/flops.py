"""The floating-point operations that a training step needs, by formula.

Letters: R rows, S row length, n = R * S token slots, B examples, L layers, T source tasks, d hidden size, f
feed-forward width, r bottleneck, w = T * r, C outputs.
"""

from scalearn_jax.model import ModelSpec
from scalearn_jax.models.backbones import BackboneSpec


def needed_flops(spec: ModelSpec, rows: int, row_length: int, examples: int, num_outputs: int) -> float:
    """Counts a step's matrix products: forward, gradients of activations, gradients of what is trained.

        forward    L (backbone + site) + head
        backward   (L - 1) (gradient through backbone + site, to its input) + L (gradients of what the site trains)

    The first layer needs no gradient of its input: below its site nothing is trained. Frozen weights need none at all.
    A head reads first tokens only, so the last layer attends at all n slots and does the rest at B places.
    Elementwise work, dropout and the optimiser count as nothing, so no program reaches a ratio of one.

    Args:
      spec: the model, of a combiner in ``SITES``.
      rows: R.
      row_length: S.
      examples: B, of one sequence each.
      num_outputs: C.

    Returns:
      Multiplications and additions of one member's step.
    """
    slots, layers, size = rows * row_length, spec.backbone.num_layers, spec.backbone.hidden_size
    site = SITES[spec.combiner](size, spec.num_sources * spec.bottleneck, spec.num_sources)
    attend, rest = attention(spec.backbone, row_length), after_attention(spec.backbone)
    through = 4 * row_length * size  # of the two attention products both factors have gradients
    full, last = slots * (layers - 1), examples
    forward = slots * layers * attend + (full + last) * (rest + site["forward"])
    backward = slots * (layers - 1) * (attend + through)
    backward += (slots * (layers - 2) + last if layers > 1 else 0) * (rest + site["to_input"])
    head = 2 * examples * size * (3 * size + 3 * num_outputs)  # forward, gradients of weights and of inputs
    return float(forward + backward + (full + last) * site["to_trained"] + head)


def attention(backbone: BackboneSpec, row_length: int) -> int:
    """Operations a token slot and layer up to what is attended to: query, key, value, scores and their sum."""
    return 6 * backbone.hidden_size**2 + 4 * row_length * backbone.hidden_size


def after_attention(backbone: BackboneSpec) -> int:
    """Operations a place and layer from there on: attention's output map and the feed-forward part."""
    return 2 * backbone.hidden_size**2 + 4 * backbone.hidden_size * backbone.intermediate_size


def _bottleneck(size: int, width: int, _num_sources: int) -> dict[str, int]:
    """A trained adapter: down and up; gradients of the bottleneck and of both kernels; of the input."""
    one = 2 * size * width
    return {"forward": 2 * one, "to_trained": 3 * one, "to_input": one}


def _vectors(size: int, width: int, _num_sources: int) -> dict[str, int]:
    """ScaLearn: omega's gradient is that of the scaled up kernel; the bottleneck's is only needed for the input."""
    one = 2 * size * width
    return {"forward": 2 * one, "to_trained": one, "to_input": 2 * one}


def _scalars(size: int, width: int, _num_sources: int) -> dict[str, int]:
    """ScaLearnUniform: omega's gradient is a sum over the bottleneck's, which the input's needs too."""
    one = 2 * size * width
    return {"forward": 2 * one, "to_trained": one, "to_input": one}


def _fusion(size: int, width: int, num_sources: int) -> dict[str, int]:
    """AdapterFusion inside the bottleneck: down, up, scores against up; query, key and value maps.

    Trained: gradients of value map and mixed output, of weights (up), of scores (up), of key map and query, of query
    map. To the input: through query map and down kernel.
    """
    one, square, biases = 2 * size * width, 2 * size**2, 2 * size * num_sources
    return {
        "forward": 3 * one + 3 * square + 2 * biases,
        "to_trained": 2 * one + 5 * square + 2 * biases,
        "to_input": one + square,
    }


SITES = {
    "single": _bottleneck,
    "scalearn": _vectors,
    "scalearn++": _vectors,
    "scalearn-uniform": _scalars,
    "scalearn-uniform++": _scalars,
    "fusion": _fusion,
}
