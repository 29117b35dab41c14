"""Sentence pair tasks: entailment, paraphrase, similarity, and whether a sentence answers a question."""

from scalearn_jax.data.builtin import scenes
from scalearn_jax.data.builtin.draw import Draw, sentence
from scalearn_jax.data.builtin.reviews import review_entailment


def entailment(draw: Draw, label: int) -> dict:
    """Does the premise entail (0), leave open (1) or contradict (2) the hypothesis? Half scenes, half reviews."""
    make = _scene_entailment if draw.chance(0.5) else review_entailment
    return {**make(draw, label), "label": label}


def _scene_entailment(draw: Draw, label: int) -> dict:
    """All three labels use the same hypothesis forms, so the hypothesis alone tells nothing."""
    asked, spare, third = scenes.subset(draw, 3)
    told = scenes.scene(draw, (asked, spare, third))
    claim = scenes.denied(told, asked) if label == 2 else told
    claim = claim._replace(slots={asked: claim.slots[asked]})
    premise = scenes.without(told, asked if label == 1 else third)
    return {
        "premise": sentence(scenes.tell(draw, premise)),
        "hypothesis": sentence(scenes.tell(draw, claim, general=draw.chance(0.5))),
    }


# Said of two people: (active, synonym, passive).
_DEEDS = (
    ("thanked", "expressed gratitude to", "was thanked by"),
    ("criticised", "found fault with", "was criticised by"),
    ("followed", "walked behind", "was followed by"),
    ("phoned", "rang up", "was phoned by"),
    ("hired", "gave a job to", "was hired by"),
    ("helped", "gave a hand to", "was helped by"),
    ("photographed", "took a picture of", "was photographed by"),
    ("invited", "sent an invitation to", "was invited by"),
    ("warned", "gave a warning to", "was warned by"),
    ("paid", "handed money to", "was paid by"),
    ("praised", "spoke highly of", "was praised by"),
    ("overtook", "went past", "was overtaken by"),
    ("beat", "won against", "was beaten by"),
    ("rescued", "saved the life of", "was rescued by"),
)
_ROLES = (
    "the nurse", "the pilot", "the baker", "the young lawyer", "the farmer", "the singer", "the tailor", "the mayor",
    "the postman", "the referee", "the librarian", "the engineer", "the judge", "the butcher", "the dancer",
    "the swimmer",
)  # fmt: skip


def _deed(draw: Draw, deed: tuple[str, str, str], doer: str, other: str, form: int, details: scenes.Scene) -> str:
    core = f"{other} {deed[2]} {doer}" if form == 2 else f"{doer} {deed[form]} {other}"
    where = " ".join(scenes.detail(draw, details, slot) for slot in details.slots)
    return sentence(draw.any((f"{core} {where}", f"{where}, {core}")))


def paraphrase(draw: Draw, label: int) -> dict:
    """Do the two sentences report the same event (1), or are roles swapped or a detail changed (0)?"""
    deed, doer = draw.pick(_DEEDS), draw.pick(_ROLES)
    other, details = draw.other(_ROLES, doer), scenes.scene(draw, (draw.any(("place", "time")),))
    form, second_form = draw.sample((0, 1, 2), 2)
    first = _deed(draw, deed, doer, other, form, details)
    if label == 0 and draw.chance(0.2):
        doer, other = other, doer
    elif label == 0:
        deed_stays, doer_stays = draw.any(((True, False), (False, True), (False, False)))
        deed = deed if deed_stays else draw.other(_DEEDS, deed)
        doer = doer if doer_stays else draw.other(_ROLES, doer, other)
        details = scenes.denied(details, *details.slots) if draw.chance(0.5) else details
    return {"sentence1": first, "sentence2": _deed(draw, deed, doer, other, second_form, details), "label": label}


_WEIGHTS = {"person": 1.0, "action": 2.0, "place": 1.0, "time": 1.0}


def similarity(draw: Draw, label: int) -> dict:
    """How similar are two scenes, 0 to 5? Points for the same person (1), deed (2), place (1) and time (1).

    The same deed with another object earns half its points; ``label`` is the number of parts that differ.
    """
    told, other = (scenes.scene(draw, ("place", "time")) for _ in range(2))
    while any(told[part] == other[part] for part in (0, 1)):
        other = scenes.scene(draw, ("place", "time"))
    score, second = 5.0, told
    for part in draw.sample(tuple(_WEIGHTS), label):
        score -= _WEIGHTS[part]
        if part == "person":
            second = second._replace(person=other.person)
        elif part == "action" and draw.chance(0.5):
            score += 1.0
            second = second._replace(action=(*told.action[:2], told.action[4], *told.action[3:]))
        elif part == "action":
            second = second._replace(action=other.action)
        else:
            second = scenes.denied(second, part)
    first = again = scenes.tell(draw, told)
    while again == first:
        again = scenes.tell(draw, second)
    return {"sentence1": sentence(first), "sentence2": sentence(again), "label": score}


_QUESTIONS = {"place": "where did {} {} {}?", "time": "when did {} {} {}?", "company": "how did {} {} {}?"}


def answer(draw: Draw, label: int) -> dict:
    """Does the sentence answer the question (1), or is it about something close by (0)?"""
    asked, spare, third = scenes.subset(draw, 3)
    told = scenes.scene(draw, (asked, spare, third))
    person, action = told.person, told.action
    about = told._replace(slots={slot: told.slots[slot] for slot in (asked, spare)})
    if label == 0 and draw.chance(0.6):
        about = told._replace(slots={slot: told.slots[slot] for slot in (third, spare)})
    elif label == 0 and draw.chance(0.5):
        person = draw.other(scenes.PEOPLE, told.person)
    elif label == 0:
        action = draw.other(scenes.ACTIONS, told.action)
    question = _QUESTIONS[asked].format(person[0], action[1], action[2])
    return {
        "question": question[0].upper() + question[1:],
        "sentence": sentence(scenes.tell(draw, about)),
        "label": label,
    }
