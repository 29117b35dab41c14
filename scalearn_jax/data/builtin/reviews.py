"""Tasks about reviews: sentiment, complaints, and the target recommendation."""

from scalearn_jax.data.builtin.draw import Draw, sentence
from scalearn_jax.data.builtin.opinions import PLACES, TRIPS, opinion, review

ASPECTS = tuple(PLACES)


def sentiment(draw: Draw, label: int) -> dict:
    """Is the writer's verdict on a restaurant or hotel negative (0) or positive (1)?"""
    return {"sentence": sentence(review(draw, PLACES, bool(label))), "label": label}


_LETTERS = (
    "You asked about our trip: {}",
    "Greetings from the coast, where {}",
    "To answer your letter, {}",
    "Let me tell you that {}",
)


def recommendation(draw: Draw, label: int) -> dict:
    """Would the writer of a letter advise against a trip (0) or recommend it (1)? Verdicts about other things."""
    text = draw.pick(_LETTERS).format(review(draw, TRIPS, bool(label)))
    return {"letter": sentence(text), "label": label}


def complaints(draw: Draw, label: int) -> dict:
    """Which of five aspects does the review complain about? Praise and silence do not count.

    ``label`` is the aspect that is sure to be among them, which keeps the five about equally frequent.
    """
    others = draw.sample([aspect for aspect in range(len(ASPECTS)) if aspect != label], draw.any((1, 2)))
    blamed = {label, *(aspect for aspect in others if draw.chance(0.35))}
    mentioned = draw.shuffled([label, *others])
    clauses = [opinion(draw, PLACES[ASPECTS[a]], a not in blamed, negated=0.1) for a in mentioned]
    joint = draw.pick((", and ", "; ", ", while ", ". Besides, "))
    text = sentence(joint.join((", ".join(clauses[:-1]), clauses[-1])))
    return {"sentence": text, "label": sorted(blamed)}
