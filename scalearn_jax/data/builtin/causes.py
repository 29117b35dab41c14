"""Cause and effect: which of two continuations is plausible."""

from scalearn_jax.data.builtin.draw import Draw, sentence

# cause | effect | what would not follow | what would not bring the effect about. * is a person.
EVENTS = tuple(
    tuple(part.replace("*", "{p}") for part in line.split("|"))
    for line in """
* left the window open all night|the bedroom was freezing|the bedroom was too warm|* turned the heating up
* forgot to water the plants|the plants dried up|the plants grew tall|* bought some fertiliser
* missed the last train|* had to take a taxi|* arrived early by rail|* caught the train in time
* dropped the phone on the stones|the screen cracked|the screen lit up|* put the phone in a soft case
* worked through the night|* was very tired|* felt well rested|* slept for nine hours
* left the milk in the sun|the milk turned sour|the milk stayed fresh|* put the milk in the fridge
* studied hard for the exam|* passed with top marks|* failed the exam|* skipped every lesson
* forgot the umbrella in the rain|* came home soaked|* came home dry|* stayed indoors all day
* ran out of petrol|the car stopped on the road|the car went faster|* filled up the tank
* ate too much cake|* had a stomach ache|* was still hungry|* skipped dessert
* told a funny joke|everybody laughed|everybody began to cry|* told a sad story
* set the alarm for the wrong hour|* overslept|* woke up on time|* got up at the first ring
* switched off the lamp|the room went dark|the room became brighter|* opened the curtains at noon
* stepped on a nail|* limped to the doctor|* danced all evening|* put on thick boots
* sold more paintings than ever|* could afford a new studio|* had to give up the studio|* found no buyer
* shouted at the dog|the dog hid under the sofa|the dog wagged its tail|* gave the dog a treat
* left the gate open|the sheep escaped|the sheep stayed inside|* locked the gate
* put too much chilli in the stew|the guests reached for water|the guests asked for more spice|* left out the chilli
* lost the wallet|* could not pay the bill|* paid for everybody|* found some extra cash
* practised the piano every day|* played without a mistake|* forgot every note|* never touched the piano
* saved money for years|* bought a small house|* was deep in debt|* spent every cent
* hit the brakes too late|the car bumped into the wall|the car stopped well before the wall|* braked in good time
* washed the wool jumper in hot water|the jumper shrank|the jumper became wider|* washed the jumper in cold water
* forgot a friend's birthday|the friend was hurt|the friend was delighted|* sent a thoughtful gift
* added yeast to the dough|the dough rose|the dough stayed flat|* left out the yeast
* touched the hot stove|* burned a finger|* felt a pleasant chill|* wore oven gloves
* trained for months|* won the race|* gave up after a mile|* stayed on the sofa all year
* told a secret to everybody|the friends stopped trusting *|the friends confided even more in *|* kept the secret
* skipped breakfast and lunch|* was starving by evening|* had no appetite at all|* ate two large meals
* turned the music up at midnight|the neighbours complained|the neighbours thanked *|* used headphones
* spilled coffee on the laptop|the laptop stopped working|the laptop ran faster|* kept drinks away from the laptop
* apologised sincerely|the quarrel was over|the quarrel got worse|* repeated the insult
* walked barefoot over the snow|* had icy feet|* had sweaty feet|* wore warm socks by the fire
* hung the picture on a thin thread|the picture fell down|the picture stayed in place|* used a strong hook
* arrived an hour late|the boss was angry|the boss gave praise|* came on time
* put salt on the icy steps|the ice melted|the ice grew thicker|* poured water on the frozen steps
* gave away the ending of the film|the others were annoyed|the others were thankful|* said nothing about the film
* forgot the password|* could not log in|* read all the mail|* wrote down the password
* took the wrong turn|* got lost in the forest|* reached the hut early|* followed the map
* sat in the sun without a hat|* got a sunburn|* became pale|* rested in the shade
* rescued a child from the river|the town honoured *|the town was ashamed of *|* walked past and did nothing
* lifted a box that was too heavy|* hurt a muscle|* felt stronger at once|* asked for help with the box
* planted an apple tree years ago|there was fruit to pick|the garden stayed bare|* cut down the apple tree
* broke the speed limit|* had to pay a fine|* got a prize for safe driving|* drove slowly
* cleaned the dusty glasses|* could see clearly|* could hardly see|* dropped the glasses in the mud
* left the cake in the oven too long|the cake was burnt|the cake was raw|* took the cake out in time
* charged the phone overnight|the battery was full|the battery was empty|* forgot to plug in the phone
* fed the stray cat every day|the cat came back|the cat kept away|* chased the cat off
* read the letter with good news|* smiled happily|* frowned in despair|* received a sad message
* left the ice cream on the table|the ice cream melted|the ice cream froze solid|* put the ice cream in the freezer
* caught a bad cold|* stayed in bed|* went for a swim|* felt perfectly healthy
* cut the onions|* had tears in the eyes|* had dry eyes|* peeled a banana
* quit the job|* had to look for work|* was promoted by the boss|* signed a longer contract
* knocked over the candle|the curtain caught fire|the curtain became wet|* blew out the candle
* tied the boat badly|the boat drifted away|the boat stayed at the pier|* fastened the boat with a double knot
* drank three cups of strong coffee|* could not fall asleep|* fell asleep at once|* drank warm milk
""".strip().splitlines()
)

_PEOPLE = ("Anna", "Ben", "my uncle", "our neighbour", "the student", "Maria", "the new clerk", "Tom", "my cousin",
           "the landlady", "Peter", "the apprentice", "Lisa", "our teacher", "the caretaker", "Jonas")  # fmt: skip
_SETTINGS = ("last week", "one day in March", "during the holidays", "a while ago", "yesterday", "on a Thursday",
             "at the end of the month", "when nobody expected it")  # fmt: skip


def cause(draw: Draw, label: int) -> dict:
    """Which of two choices is the cause, or the effect, of what happened? ``label`` is the index of the right one."""
    event, other = draw.pick(EVENTS), draw.pick(EVENTS)
    person, setting = draw.pick(_PEOPLE), draw.pick(_SETTINGS)
    ask = draw.any(("cause", "effect"))
    told, right, wrong = (event[1], event[0], event[3]) if ask == "cause" else (event[0], event[1], event[2])
    if other != event and draw.chance(0.3):
        wrong = other[0 if ask == "cause" else 1]
    said = [sentence(text.format(p=person)) for text in (right, wrong)]
    return {
        "premise": sentence(f"{setting} {told.format(p=person)}"),
        "question": f"What was the {ask}?",
        "choice1": said[label],
        "choice2": said[1 - label],
        "label": label,
    }
