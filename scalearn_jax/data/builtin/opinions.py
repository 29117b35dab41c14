"""Tasks about reviews: sentiment, complaints, and the target recommendation."""

from typing import NamedTuple

from scalearn_jax.data.builtin.draw import Draw, sentence


class Aspect(NamedTuple):
    """One thing reviews talk about: its nouns, and what is said of it in praise and in blame."""

    subjects: tuple[str, ...]
    good: tuple[str, ...]
    bad: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


PLACES = {
    "food": Aspect(
        _words("the soup, the lamb, the bread, the curry, the fish, the pasta, the chocolate cake, the salad, "
               "the rice, the roast chicken, the breakfast, the omelette, the dumpling soup, the vegetable stew"),
        _words("delicious, tasty, full of flavour, perfectly cooked, wonderfully fresh, juicy, rich and warming, "
               "seasoned just right, a joy to eat, crisp and light, mouth-watering, worth a second helping"),
        _words("bland, burnt, stale, overcooked, soggy, tasteless, much too salty, greasy, dry as dust, watery, "
               "cold in the middle, half raw, spoiled, impossible to swallow"),
    ),
    "service": Aspect(
        _words("the waiter, our waitress, the manager, the man at the desk, the young bartender, the doorman, "
               "the woman behind the counter, the cashier, the hostess, the porter"),
        _words("friendly, attentive, polite, quick to help, patient, welcoming, cheerful, well informed, "
               "kind to our children, considerate, happy to answer every question, courteous"),
        _words("rude, slow, impatient, forgetful, bad-tempered, careless, unhelpful, busy with a phone, dismissive, "
               "sulky, deaf to every request, arrogant"),
    ),
    "price": Aspect(
        _words("the bill, the price of the wine, the set menu, the cost of a night, the total, the entrance fee, "
               "the charge for parking, the daily rate, the lunch offer, the tariff"),
        _words("fair, very reasonable, a real bargain, lower than expected, pleasantly modest, easy on the wallet, "
               "good value, pleasantly low, affordable, worth every penny"),
        _words("far too high, excessive, shocking, a rip-off, hard to justify, inflated, a nasty surprise, outrageous, "
               "daylight robbery, beyond all reason"),
    ),
    "place": Aspect(
        _words("the dining room, the terrace, the garden, the lounge, the corner by the window, the courtyard, "
               "the upstairs hall, the bar, the balcony, the lobby"),
        _words("charming, cosy, bright and airy, quiet, elegant, relaxing, beautifully decorated, full of character, "
               "inviting, a lovely spot"),
        _words("gloomy, cramped, noisy, draughty, depressing, stuffy, in need of paint, dark and cold, crowded, "
               "without any charm"),
    ),
    "cleanliness": Aspect(
        _words("the bathroom, the table, the floor, the cutlery, the carpet, the wine glass, the kitchen, "
               "the bed linen, the washbasin, the tablecloth"),
        _words("spotless, shining, freshly washed, perfectly clean, polished, as good as new, tidy, "
               "scrubbed to perfection, gleaming, immaculate"),
        _words("filthy, sticky, dusty, covered in stains, dirty, smeared with grease, mouldy, full of crumbs, grimy, "
               "disgusting to touch"),
    ),
}  # fmt: skip

_TRIP_SUBJECTS = {
    "food": _words("the picnic, the campfire dinner, the packed lunch, the barbecue, the fruit on board, the tea"),
    "service": _words("the guide, the driver, the captain, the ski teacher, the steward, the travel agent"),
    "price": _words("the boat fare, the deposit, the train ticket, the ski pass, the travel insurance, the extra fee"),
    "place": _words("the mountain hut, the cabin, the campsite, the cottage, the cave, the harbour"),
    "cleanliness": _words("the shower, the sleeping bag, the deck, the tent, the beach towel, the bus"),
}
# Other things to judge, in the same words.
TRIPS = {name: aspect._replace(subjects=_TRIP_SUBJECTS[name]) for name, aspect in PLACES.items()}

_PLAIN = (
    "{subject} was {word}", "{subject} turned out to be {word}", "I found {subject} {word}",
    "{subject} was really {word}", "as usual {subject} was {word}", "we thought {subject} was {word}",
    "without doubt {subject} was {word}", "{subject} seemed {word}",
)  # fmt: skip
_NEGATED = (
    "{subject} was not {word} at all", "{subject} was anything but {word}", "I would not describe {subject} as {word}",
    "nobody could call {subject} {word}", "{subject} was never {word}", "{subject} was far from {word}",
    "it would be wrong to call {subject} {word}",
)  # fmt: skip
_BOTH_COUNT = ("{}, and {}", "{}, and on top of that {}", "{} and {} too", "{}; also, {}")
_CONTRAST = (
    "{}, but {}", "although {}, {}", "{}; however, {}", "{}, yet {}", "even though {}, {}", "granted, {}; still, {}",
    "{}; then again, {}",
)  # fmt: skip
_WHO = ("we", "my parents", "the children", "our friends", "my colleagues", "both of us", "all of us", "the old couple")
_VERDICTS = {
    True: (
        "left happy", "had a wonderful time", "will gladly return", "stayed a bit longer", "cheered at the end",
        "are full of praise", "felt spoiled", "loved every minute", "tell all the neighbours to go",
        "cannot wait for the next time", "would not have missed it", "went home smiling", "fell in love with it",
        "count it among the best days of the year", "would do it all again", "could not have been more pleased",
    ),
    False: (
        "left disappointed", "had a terrible time", "will never return", "asked for the money back",
        "complained at the end", "are full of anger", "felt cheated", "hated every minute",
        "tell all the neighbours to stay away", "want to forget about it", "regret the whole thing",
        "went home frowning", "had a quarrel about it", "count it among the worst days of the year",
        "would rather have stayed at home", "could not have been more annoyed",
    ),
}  # fmt: skip


def opinion(draw: Draw, aspect: Aspect, positive: bool, negated: float = 0.15) -> str:
    """One clause that praises or blames an aspect, sometimes by denying the opposite."""
    negate = draw.chance(negated)
    words = aspect.good if positive != negate else aspect.bad
    return draw.pick(_NEGATED if negate else _PLAIN).format(subject=draw.pick(aspect.subjects), word=draw.pick(words))


def review(draw: Draw, aspects: dict[str, Aspect], positive: bool) -> str:
    """A sentence with a positive or negative verdict; about half make a concession to the other side.

    The clause after "but" and the verdict at the end decide, so counting friendly words is not enough.
    """
    main, side = draw.sample(list(aspects.values()), 2)
    decisive = opinion(draw, main, positive)
    if draw.chance(0.3):
        return draw.pick(_BOTH_COUNT).format(decisive, opinion(draw, side, positive))
    if mixed := draw.chance(0.7):
        decisive = draw.pick(_CONTRAST).format(opinion(draw, side, not positive), decisive)
    if mixed and draw.chance(0.3):
        return decisive
    return f"{decisive}, {draw.any(('and', 'so'))} {draw.pick(_WHO)} {draw.pick(_VERDICTS[positive])}"


ASPECTS = tuple(PLACES)


def sentiment(draw: Draw, label: int) -> dict:
    """Is the writer's verdict on a restaurant or hotel negative (0) or positive (1)?"""
    return {"sentence": sentence(review(draw, PLACES, bool(label))), "label": label}


_LETTERS = (
    "You asked about our trip: {}", "Greetings from the coast, where {}", "To answer your letter, {}",
    "Let me tell you that {}",
)  # fmt: skip


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
