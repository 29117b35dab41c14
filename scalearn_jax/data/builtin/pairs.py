"""Sentence pair tasks: entailment, paraphrase, similarity, and whether a sentence answers a question."""

from scalearn_jax.data.builtin import scenes
from scalearn_jax.data.builtin.draw import Draw, sentence


def entailment(draw: Draw, label: int) -> dict:
    """Does the premise entail (0), leave open (1) or contradict (2) the hypothesis?

    All three labels use the same hypothesis forms, so the hypothesis alone tells nothing.
    """
    asked, spare, third = scenes.subset(draw, 3)
    told = scenes.scene(draw, (asked, spare, third))
    claim = scenes.denied(told, asked) if label == 2 else told
    if unrelated := label == 1 and draw.chance(0.5):
        claim = claim._replace(action=draw.other(scenes.ACTIONS, told.action))
    claim = claim._replace(slots={asked: claim.slots[asked]})
    premise = scenes.without(told, asked if label == 1 and not unrelated else third)
    return {
        "premise": sentence(scenes.tell(draw, premise)),
        "hypothesis": sentence(scenes.tell(draw, claim, general=draw.chance(0.3))),
        "label": label,
    }


# Said of two people: (active, synonym, passive).
_DEEDS = (
    ("thanked", "expressed gratitude to", "was thanked by"), ("criticised", "found fault with", "was criticised by"),
    ("followed", "walked behind", "was followed by"), ("phoned", "rang up", "was phoned by"),
    ("hired", "gave a job to", "was hired by"), ("helped", "gave a hand to", "was helped by"),
    ("photographed", "took a picture of", "was photographed by"),
    ("invited", "sent an invitation to", "was invited by"),
    ("warned", "gave a warning to", "was warned by"), ("paid", "handed money to", "was paid by"),
    ("praised", "spoke highly of", "was praised by"), ("overtook", "went past", "was overtaken by"),
    ("beat", "won against", "was beaten by"), ("rescued", "saved the life of", "was rescued by"),
)  # fmt: skip
_ROLES = (
    "the nurse", "the pilot", "the baker", "the young lawyer", "the farmer", "the singer", "the tailor", "the mayor",
    "the postman", "the referee", "the librarian", "the engineer", "the judge", "the butcher", "the dancer",
    "the swimmer",
)  # fmt: skip


def _deed(draw: Draw, deed: tuple[str, str, str], doer: str, other: str, form: int, details: scenes.Scene) -> str:
    core = f"{other} {deed[2]} {doer}" if form == 2 else f"{doer} {deed[form]} {other}"
    where = " ".join(scenes.detail(draw, details, slot) for slot in details.slots)
    return draw.any((f"{core} {where}", f"{where}, {core}"))


def paraphrase(draw: Draw, label: int) -> dict:
    """Do the two sentences report the same event (1), or are roles swapped or parts changed (0)?"""
    first, second = _two_reports(draw, bool(label))
    return {"sentence1": sentence(first), "sentence2": sentence(second), "label": label}


_FRAMES = (
    ("I clearly saw that {}", "the other witness said that {}"),
    ("it was like this: {}", "others remember that {}"),
    ("I told the police that {}", "the caretaker believes that {}"),
    ("one guest is sure that {}", "the guest next door swears that {}"),
)


def agreement(draw: Draw, label: int) -> dict:
    """Do two witnesses disagree (0) or agree (1) about what happened? Paraphrases in another frame."""
    frame, reports = draw.pick(_FRAMES), _two_reports(draw, bool(label))
    first, second = (sentence(text.format(report)) for text, report in zip(frame, reports, strict=True))
    return {"witness1": first, "witness2": second, "label": label}


def _two_reports(draw: Draw, same: bool) -> tuple[str, str]:
    deed, doer = draw.pick(_DEEDS), draw.pick(_ROLES)
    other, details = draw.other(_ROLES, doer), scenes.scene(draw, (draw.any(("place", "time")),))
    form, second_form = draw.sample((0, 1, 2), 2)
    first = _deed(draw, deed, doer, other, form, details)
    if not same and draw.chance(0.1):
        doer, other = other, doer
    elif not same:
        kept = draw.any(("deed", "doer", "detail"))
        deed = deed if kept == "deed" else draw.other(_DEEDS, deed)
        doer = doer if kept == "doer" else draw.other(_ROLES, doer, other)
        details = details if kept == "detail" else scenes.denied(details, *details.slots)
    return first, _deed(draw, deed, doer, other, second_form, details)


_WEIGHTS = {"person": 1.0, "action": 2.0, "place": 1.0, "time": 1.0}  # points of each part


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
    if label == 0 and draw.chance(0.5):
        about = told._replace(slots={slot: told.slots[slot] for slot in (third, spare)})
    elif label == 0:
        person, action = draw.other(scenes.PEOPLE, told.person), draw.other(scenes.ACTIONS, told.action)
        person, action = draw.any(((person, action), (told.person, action), (person, told.action)))
    question = _QUESTIONS[asked].format(person[0], action[1], action[2])
    return {
        "question": question[0].upper() + question[1:],
        "sentence": sentence(scenes.tell(draw, about)),
        "label": label,
    }
