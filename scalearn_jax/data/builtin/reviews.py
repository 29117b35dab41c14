"""Tasks about reviews: sentiment, complaints, and the two targets recommendation and agreement."""

from scalearn_jax.data.builtin.draw import Draw, sentence
from scalearn_jax.data.builtin.opinions import GADGET_VERDICTS, GADGETS, PLACE_VERDICTS, PLACES, opinion, review

ASPECTS = tuple(PLACES)


def sentiment(draw: Draw, label: int) -> dict:
    """Is the writer's verdict on a restaurant or hotel negative (0) or positive (1)?"""
    return {"sentence": sentence(review(draw, PLACES, PLACE_VERDICTS, bool(label))), "label": label}


def recommendation(draw: Draw, label: int) -> dict:
    """Would the buyer of a gadget advise against it (0) or recommend it (1)? The verdict skill in a new domain."""
    return {"sentence": sentence(review(draw, GADGETS, GADGET_VERDICTS, bool(label))), "label": label}


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


def agreement(draw: Draw, label: int) -> dict:
    """Do two guests disagree (0) or agree (1) about the one aspect that both mention?"""
    shared, side = draw.sample(ASPECTS, 2)
    first = draw.any((True, False))
    clauses = [
        opinion(draw, PLACES[shared], first, negated=0.1),
        opinion(draw, PLACES[side], draw.any((True, False)), negated=0.1),
    ]
    return {
        "review1": sentence(", and ".join(draw.shuffled(clauses))),
        "review2": sentence(opinion(draw, PLACES[shared], first == bool(label), negated=0.1)),
        "label": label,
    }


_FELT = {
    True: ("was pleased with", "liked", "spoke well of", "had only praise for", "was happy about", "enjoyed"),
    False: ("was unhappy with", "disliked", "complained about", "was annoyed by", "found fault with", "resented"),
}
_TERMS = {
    "food": ("the food", "the cooking", "the meal", "the dishes"),
    "service": ("the service", "the staff", "the employees", "the way guests were treated"),
    "price": ("the price", "the cost", "what it cost", "the amount charged"),
    "place": ("the surroundings", "the atmosphere", "the room", "the setting"),
    "cleanliness": ("the cleanliness", "the hygiene", "how clean it was", "the state of the cleaning"),
}


def review_entailment(draw: Draw, label: int) -> dict:
    """A review, and a claim about one aspect: entailed (0), open because unmentioned (1), or contradicted (2)."""
    about, side, absent = draw.sample(ASPECTS, 3)
    felt = draw.any((True, False))
    clauses = [
        opinion(draw, PLACES[about], felt, negated=0.1),
        opinion(draw, PLACES[side], draw.any((True, False)), negated=0.1),
    ]
    asked, claim = (absent if label == 1 else about), felt == (label != 2)
    if draw.chance(0.5):
        hypothesis = f"the guest {draw.pick(_FELT[claim])} {draw.pick(_TERMS[asked])}"
    else:
        hypothesis = opinion(draw, PLACES[asked], claim, negated=0.1)
    return {"premise": sentence(", and ".join(draw.shuffled(clauses))), "hypothesis": sentence(hypothesis)}
