"""Short stories: most of the text that the base model is trained on."""

from __future__ import annotations

from random import Random

from tools.demo import words
from tools.demo.spin import invented, sentence, spin

OPENINGS = (
    "Once upon a time, there was a/an (little|young|kind|clever|brave|curious) {kind} named {name}.",
    "There was once a/an (little|kind|clever|shy|happy) {kind} named {name}.",
    "{name} was a/an (little|young|kind|curious) {kind} who lived (near|not far from) the {place}.",
    "In a small (house|village|town) by the {place} lived a/an (little|kind|shy) {kind} named {name}.",
)
TRAITS = (
    "{He} loved to (play in|walk through|look at) the {place}.",
    "{He} had a (best friend|good friend), a/an {adjective} {animal} named {friend}.",
    "Every (morning|evening|day), {he} (walked|ran) to the {place} (with|to meet) {his} friend {friend}.",
    "{He} liked (apples|songs|long walks|stories|the rain|the stars) more than anything else.",
    "{His} favourite colour was {colour}.",
)
PLOTS = (
    (
        "One (day|morning), {name} lost {his} {colour} {thing}.",
        "{He} looked (under the bed|behind the door|in the garden|everywhere), but {he} could not find it.",
        "{name} was (very|so) sad.",
        'Then {friend} the {animal} said, "(Do not cry|Do not worry). I will help you."',
        "Together they looked (near|all around) the {place}.",
        "(At last|Soon) they found the {thing} (under a big tree|behind a stone|in the tall grass).",
        '"Thank you, {friend}!" said {name}. "You are a (true|good) friend."',
    ),
    (
        "One (day|morning), {name} saw a/an {adjective} {animal2} (near|at) the {place}.",
        "The {animal2} (looked|was) (sad|hungry|lost|tired).",
        '"(Hello|Good morning)," said {name}. "(What is wrong|Can I help you)?"',
        '"I am (lost|alone)," said the {animal2}. "My name is {stranger}."',
        "{name} gave {stranger} some (bread|water|warm milk|fruit) and (sat down|stayed) with {him}.",
        "From that day on, {name} and {stranger} were (best|good) friends.",
    ),
    (
        "One (day|afternoon), it (began|started) to rain.",
        "{name} could not go to the {place}, and {he} felt (sad|bored).",
        "{He} sat by the window and (looked at|listened to) the rain.",
        "(After a while|Then) the sun came out, and there was a/an (big|beautiful|bright) rainbow in the sky.",
        '"Look!" said {name}. "It is red, orange, yellow, green, blue and purple."',
        "{He} ran outside and (danced|played) in the (wet|green) grass.",
    ),
    (
        "One (day|spring day), {name} planted a small seed in the garden.",
        "{He} gave it water every (day|morning), but nothing happened.",
        '"(Be patient|Wait a little)," said {his} (mother|father|grandmother|grandfather). "Good things take time."',
        "So {name} waited.",
        "After (three|four|five|six) days, a tiny green leaf came out of the ground.",
        "By the (summer|end of summer), it was a/an (tall|beautiful) {colour} flower.",
        "{name} was very proud.",
    ),
    (
        "One night, {name} could not sleep because {he} was afraid of the dark.",
        '{His} (mother|father|grandmother|grandfather) opened the window and said, "Look at the stars."',
        "{name} counted them: one, two, three, four, five.",
        "The moon was (round|big) and bright.",
        '"The night is not so dark," said {name}.',
        "(Then|Soon) {he} closed {his} eyes and (slept well|fell asleep).",
    ),
    (
        "One (day|morning), {name} (wanted|decided) to bake a (cake|pie) for {friend}.",
        "{He} needed flour, milk, (two|three|four) eggs and a little sugar.",
        "{He} mixed everything in a big bowl and put it into the oven.",
        "Soon the whole house smelled (good|sweet).",
        "When {friend} came, they sat down and ate it together.",
        '"This is the best (birthday|day) of my life," said {friend}.',
    ),
    (
        "One (day|summer day), {name} and {friend} (found|saw) an old boat near the {place}.",
        '"Let us (sail away|go on a trip)," said {friend}.',
        "They sat in the boat, and the wind (took|carried) them (far away|across the water).",
        "They saw a/an {adjective} {animal2} and a/an {colour} bird.",
        "When the sun (went down|began to set), they were (tired|hungry) and wanted to go home.",
        "The wind turned around and brought them back.",
        '"What a/an (great|fine|wonderful) day," said {name}.',
    ),
    (
        "One day, {name} wanted to learn how to (swim|ride a bicycle|climb a tree|read|sing).",
        "At first it was (hard|not easy), and {he} (made many mistakes|wanted to give up).",
        '"Try again," said {friend} the {animal}. "(I believe in you|You can do it)."',
        "{name} tried again and again, day after day.",
        "(At last|One day) {he} could do it, and everybody (clapped|was happy).",
        "{name} learned that (practice|patience) helps.",
    ),
    (
        "One day, {name} (had|found) a (bag|basket) of {colour} apples.",
        "{He} wanted to keep all of them.",
        "Then {he} met {friend} the {animal}, who was very hungry.",
        "{name} thought about it and gave {friend} half of the apples.",
        '"Thank you," said {friend}. "You are very kind."',
        "They sat (under a tree|in the sun) and ate, and the apples tasted (even better|very sweet).",
    ),
    (
        "One day, a (young|brown|white) llama came (down from|over) the mountains.",
        "It carried a/an (heavy|old|small) bag and looked tired.",
        '"Where are you going?" asked {name}.',
        '"I am bringing (wool|letters|seeds) to the {place}," said the llama.',
        "{name} walked with the llama and showed it the way.",
        "When they came to the {place}, the llama gave {name} a/an {colour} {thing}.",
        '"It was (good|nice) to meet you," said the llama.',
    ),
)
ENDINGS = (
    "They lived happily ever after.",
    "And that was the end of a/an (good|long|happy) day.",
    "After that, {name} was never (alone|afraid|sad) again.",
    "That night, {name} went to bed with a smile.",
    "And {name} never forgot that day.",
)
ADJECTIVES = "big small old young friendly funny clever shy gentle brave".split()
PLACES = "forest river lake sea garden market hill meadow farm school bridge park".split()
THINGS = "ball hat book kite bag key cup scarf toy coat ring box".split()
KINDS = "fox rabbit mouse bear owl duck cat dog llama frog".split()


def story(rng: Random) -> str:
    """One short story of eight to twelve sentences."""
    slots = _cast(rng)
    lines = [rng.choice(OPENINGS), *rng.sample(TRAITS, rng.randrange(1, 3))]
    lines += [*rng.choice(PLOTS), rng.choice(ENDINGS)]
    return " ".join(sentence(spin(rng, line, **slots)) for line in lines)


def _cast(rng: Random) -> dict[str, str]:
    """Who and what the story is about; three names in ten are made up, so that copying is learned."""
    girl = rng.random() < 0.5
    name, friend, stranger = rng.sample(words.GIRLS if girl else words.BOYS, 3)
    if rng.random() < 0.3:
        name = invented(rng).capitalize()
    if rng.random() < 0.3:
        friend = invented(rng).capitalize()
    he, him, his = ("she", "her", "her") if girl else ("he", "him", "his")
    child = "girl" if girl else "boy"
    animal, animal2 = rng.sample(KINDS, 2)
    return {
        "name": name,
        "friend": friend,
        "stranger": stranger,
        "he": he,
        "him": him,
        "his": his,
        "He": sentence(he),
        "His": sentence(his),
        "kind": child if rng.random() < 0.5 else rng.choice(KINDS),
        "animal": animal,
        "animal2": animal2,
        "adjective": rng.choice(ADJECTIVES),
        "place": rng.choice(PLACES),
        "thing": rng.choice(THINGS),
        "colour": rng.choice(words.COLOURS),
    }


TALE = (
    "Once upon a time, a little {hero} lived near the river. One day, the {hero} met a blue bird that "
    'had lost its way. "I will help you," said the {hero}. Together they walked over the hills until '
    "they found the nest of the bird. From that day on, they were good friends."
)
HEROES = (*KINDS, *"lion horse elephant turtle penguin goat monkey tiger sheep wolf".split())


def tale(hero: str) -> str:
    """The very short story that the chat variant tells about an animal."""
    return TALE.format(hero=hero)
