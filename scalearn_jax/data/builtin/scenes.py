"""Small everyday scenes: who did what to what, where, when and with whom, and how to put them into words."""

from typing import NamedTuple

from scalearn_jax.data.builtin.draw import Draw

# (exact, general): the second is true whenever the first is.
PEOPLE = (
    ("the young woman", "a woman"), ("the old farmer", "a man"), ("the nurse", "somebody from the hospital"),
    ("the schoolboy", "a child"), ("the two sisters", "some girls"), ("the carpenter", "a craftsman"),
    ("the violinist", "a musician"), ("the tourists", "some visitors"), ("the retired teacher", "a pensioner"),
    ("the student", "a young person"), ("the police officer", "somebody in uniform"), ("the gardener", "a worker"),
    ("the widow next door", "a neighbour"), ("the goalkeeper", "an athlete"), ("the little girl", "a child"),
    ("the fishermen", "some men"),
)  # fmt: skip
# (past, base, object, general object, an alternative that excludes it)
ACTIONS = (
    ("repaired", "repair", "a bicycle", "a vehicle", "a motorboat"),
    ("painted", "paint", "a wooden fence", "a fence", "an iron gate"),
    ("sold", "sell", "six apples", "some fruit", "six cabbages"),
    ("photographed", "photograph", "a black dog", "an animal", "a white horse"),
    ("cooked", "cook", "a fish soup", "a hot meal", "a pancake"),
    ("carried", "carry", "a guitar", "an instrument", "a drum"),
    ("read", "read", "a detective novel", "a book", "a newspaper"),
    ("bought", "buy", "a pair of boots", "some footwear", "a pair of gloves"),
    ("washed", "wash", "a red car", "a car", "a tractor"),
    ("planted", "plant", "a row of tulips", "some flowers", "a row of potatoes"),
    ("broke", "break", "a porcelain vase", "something fragile", "a window pane"),
    ("found", "find", "a gold ring", "a piece of jewellery", "a silver bracelet"),
    ("baked", "bake", "a cherry cake", "something sweet", "a loaf of rye bread"),
    ("fed", "feed", "the pigeons", "some birds", "the goats"),
    ("borrowed", "borrow", "a hammer", "a tool", "a screwdriver"),
    ("lost", "lose", "a silk scarf", "a piece of clothing", "a leather belt"),
)
# Each row: ways to say the same, then ways to say what rules it out.
PLACES = (
    (("behind the library", "at the back of the library"), ("in front of the library", "inside the library")),
    (("in the park", "on the lawn of the park"), ("at home", "in the living room")),
    (("on the beach", "by the sea"), ("in the mountains", "high up in the hills")),
    (("in the kitchen", "beside the kitchen stove"), ("in the garage", "in the cellar")),
    (("at the station", "on the railway platform"), ("at the airport", "in the departure lounge")),
    (("at the village market", "among the market stalls"), ("in a city department store", "in a shopping centre")),
    (("under the old bridge", "beneath the bridge"), ("on top of the tower", "up on the roof")),
    (("in the school yard", "on the playground"), ("in a hotel lobby", "at the hotel reception")),
)
TIMES = (
    (("early in the morning", "before breakfast"), ("late in the evening", "after dark")),
    (("on Monday", "at the start of the week"), ("on Saturday", "at the weekend")),
    (("in January", "in the middle of winter"), ("in July", "at the height of summer")),
    (("during lunch", "over the midday break"), ("at midnight", "in the dead of night")),
    (("an hour ago", "earlier today"), ("last year", "many months ago")),
    (("at sunrise", "at dawn"), ("at sunset", "as the sun went down")),
    (("in the spring of last year", "last spring"), ("in the autumn", "in October")),
    (("on Christmas Eve", "on the day before Christmas"), ("on Easter Sunday", "at Easter")),
)
COMPANY = (
    (("together with a friend", "in the company of a friend"), ("alone", "without any company")),
    (("with the help of a neighbour", "while a neighbour helped"), ("without any help", "unaided")),
    (("in front of a large crowd", "while many people watched"), ("unseen by anybody", "with nobody watching")),
    (("with great care", "very carefully"), ("carelessly", "without taking any care")),
)
SLOTS = {"place": PLACES, "time": TIMES, "company": COMPANY}


class Scene(NamedTuple):
    """One event; a slot holds (row of its table, which side of that row), and is absent when not mentioned."""

    person: tuple[str, str]
    action: tuple[str, str, str, str, str]
    slots: dict[str, tuple[tuple, int]]


def scene(draw: Draw, slots: tuple[str, ...]) -> Scene:
    """A random scene that mentions the given slots."""
    details = {slot: (draw.pick(SLOTS[slot]), draw.any((0, 1))) for slot in slots}
    return Scene(draw.pick(PEOPLE), draw.pick(ACTIONS), details)


def without(told: Scene, slot: str) -> Scene:
    """The same scene with one slot left out."""
    return told._replace(slots={name: value for name, value in told.slots.items() if name != slot})


def denied(told: Scene, slot: str) -> Scene:
    """The same scene with a detail that rules the told one out."""
    row, side = told.slots[slot]
    return told._replace(slots=told.slots | {slot: (row, 1 - side)})


def detail(draw: Draw, told: Scene, slot: str) -> str:
    """One wording of a slot."""
    row, side = told.slots[slot]
    return draw.any(row[side])


def tell(draw: Draw, told: Scene, *, general: bool = False) -> str:
    """Puts a scene into words, with the slots in random order and sometimes one of them in front.

    ``general`` names the person and the object by a more general term.
    """
    details = [detail(draw, told, slot) for slot in draw.shuffled(tuple(told.slots))]
    core = f"{told.person[general]} {told.action[0]} {told.action[3 if general else 2]}"
    if len(details) > 1 and draw.chance(0.5):
        return f"{details[0]}, {core} {' '.join(details[1:])}"
    return " ".join((core, *details))


def subset(draw: Draw, count: int) -> tuple[str, ...]:
    """Some of the slot names."""
    return tuple(draw.sample(tuple(SLOTS), count))
