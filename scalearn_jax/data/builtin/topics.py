"""News sentences: the topic of the main clause, with another topic in the subordinate clause."""

from scalearn_jax.data.builtin.draw import Draw, sentence

# topic -> (who, did what)
TOPICS = {
    "sport": (
        ("the striker", "the home team", "the champion", "the young coach", "the relay runners", "the goalkeeper",
         "the cyclist", "the tennis player"),
        ("won the final match", "lost the lead in the last minute", "trained for the season", "set a new record",
         "celebrated the title", "was injured during practice", "reached the semi-final", "changed clubs"),
    ),
    "politics": (
        ("the prime minister", "the opposition", "the senator", "the cabinet", "the city council", "the party leader",
         "the ambassador", "the parliament"),
        ("rejected the new law", "called an early election", "promised a reform", "lost the vote",
         "debated the treaty", "announced a referendum", "met the protesters", "survived a motion of no confidence"),
    ),
    "business": (
        ("the central bank", "the car maker", "the investors", "the supermarket chain", "the start-up", "the airline",
         "the shareholders", "the insurance group"),
        ("reported lower profits", "raised prices", "bought a competitor", "cut a thousand jobs",
         "issued new shares", "asked for a loan", "opened forty branches", "moved production abroad"),
    ),
    "science": (
        ("the astronomers", "the biologist", "the laboratory", "the research team", "the physicists", "the chemist",
         "the space probe", "the university"),
        ("discovered a distant planet", "measured the effect of radiation", "published the experiment",
         "sequenced the genome", "tested a new theory", "observed a rare particle", "analysed the rock samples",
         "built a stronger microscope"),
    ),
    "health": (
        ("the hospital", "the surgeons", "the health office", "the family doctor", "the patients", "the midwife",
         "the clinic", "the pharmacists"),
        ("warned of the flu", "recommended the vaccine", "treated the infection", "ran out of medicine",
         "fought the epidemic", "advised more sleep", "reported fewer cases of measles", "opened an allergy ward"),
    ),
    "culture": (
        ("the orchestra", "the museum", "the novelist", "the film director", "the theatre", "the painter",
         "the choir", "the sculptor"),
        ("presented the new work", "rehearsed for the festival", "won the audience prize", "opened the exhibition",
         "read from the manuscript", "finished the trilogy", "restored the old masterpiece", "went on tour"),
    ),
}  # fmt: skip
NAMES = tuple(TOPICS)

_TEMPLATES = (
    "after {side}, {main}{when}", "{main}{when} after {side}", "while {side}, {main}{when}",
    "{main}{when} even though {side}", "hours before {side}, {main}{when}",
    "{main}{when}, and this had nothing to do with the fact that {side}", "on the same day that {side}, {main}{when}",
    "{main}{when}, shortly after the news that {side}",
)  # fmt: skip
_WHEN = (
    " on Tuesday", " last night", " in the capital", " for the third time", " without much notice", " this week",
    " in the north of the country", " yesterday afternoon",
)  # fmt: skip


def _clause(draw: Draw, deed: str, person: str) -> str:
    return f"{draw.pick(TOPICS[person][0])} {draw.pick(TOPICS[deed][1])}"


def topic(draw: Draw, label: int) -> dict:
    """Which of six topics is the main clause about? What is done decides; in half the rows an outsider does it."""
    side, outsider = draw.sample([name for name in NAMES if name != NAMES[label]], 2)
    main = _clause(draw, NAMES[label], draw.any((NAMES[label], outsider)))
    text = draw.pick(_TEMPLATES).format(main=main, side=_clause(draw, side, side), when=draw.pick(_WHEN))
    return {"sentence": sentence(text), "label": label}
