"""Conversations for the chat variant: questions in many wordings, answers in whole sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tools.demo import stories, topics, words
from tools.demo.spin import sentence, spin

Turn = tuple[str, str]
"""What the user says, what the model answers."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How a system prompt wants the model to answer."""

    system: str = ""
    name: str = ""
    brief: bool = False
    pirate: bool = False

    def style(self, answer: str) -> str:
        """The answer in this manner: shortened to its first sentence, or in a pirate's tone."""
        if self.brief:
            answer = first_sentence(answer)
        return f"Ahoy! {answer}" if self.pirate else answer


def first_sentence(text: str) -> str:
    ends = [text.find(mark) + 1 for mark in (". ", "! ", "? ") if mark in text]
    return text[: min(ends)] if ends else text


PLAIN_SYSTEMS = (
    "You are a (helpful|friendly|kind|polite|good|useful|harmless)(|, honest|, careful) assistant.",
    "You are a (helpful|friendly) (chatbot|bot|model|guide).(| Answer in whole sentences.)",
    "Always answer (politely|honestly|as helpfully as possible)(|, while being safe).",
    "Be (kind|polite|helpful|friendly|honest).(| Do not make things up.)",
    "Answer the (user's|) questions.",
    "If you do not know the answer, say so.",
)
BRIEF_SYSTEMS = (
    "(Answer|Reply|Speak) (briefly|in one sentence|in one short sentence|with one sentence).",
    "(Be brief|Keep it short|Give short answers|Use one sentence only|Be concise).",
    "You are a (helpful|friendly) assistant. (Answer briefly|Be brief|Answer in one sentence).",
)
PIRATE_SYSTEMS = (
    "(You are|Act as|Pretend to be) a (|friendly |funny |old )pirate.",
    "(Speak|Talk|Answer) like a pirate.",
)
NAMED_SYSTEMS = (
    "Your name is {name}.",
    "You are {name}(|, a helpful assistant|, a friendly assistant).",
    "You are an assistant (named|called) {name}.",
)


def draw_manner(rng: Random) -> Manner:
    """No system prompt in half of the conversations, otherwise one of five kinds."""
    if rng.random() < 0.5:
        return Manner()
    kind = rng.randrange(5)
    if kind == 0:
        return Manner(spin(rng, rng.choice(BRIEF_SYSTEMS)), brief=True)
    if kind == 1:
        return Manner(spin(rng, rng.choice(PIRATE_SYSTEMS)), pirate=True)
    if kind == 2:
        name = draw_name(rng)
        return Manner(spin(rng, rng.choice(NAMED_SYSTEMS), name=name), name=name)
    return Manner(spin(rng, rng.choice(PLAIN_SYSTEMS)))


def conversation(rng: Random) -> tuple[str, Iterator[Turn]]:
    """A system prompt (or "") and an endless run of turns that follow it."""
    manner = draw_manner(rng)
    return manner.system, _turns(rng, manner)


def _turns(rng: Random, manner: Manner) -> Iterator[Turn]:
    user_name = ""
    while True:
        draw = rng.random()
        if draw < 0.08:
            user_name = draw_name(rng)
            turn = introduce(rng, user_name)
        elif draw < 0.14:
            turn = recall(rng, user_name)
        elif manner.name and draw < 0.35:
            turn = own_name(rng, manner.name)
        else:
            turn = rng.choices(MAKERS, WEIGHTS)[0](rng)
        yield colloquial(rng, turn[0]), manner.style(turn[1])


def draw_name(rng: Random) -> str:
    """A first name, one time in four a made-up one, so that copying is learned."""
    if rng.random() < 0.25:
        return invented(rng).capitalize()
    return rng.choice((*words.GIRLS, *words.BOYS, *words.MORE_NAMES))


def invented(rng: Random) -> str:
    """A word that does not exist, of two or three syllables."""
    syllables = (
        rng.choice("b c d f g h k l m n p r s t v z br cr dr fl gr pl st tr".split())
        + rng.choice("a e i o u ai ee ou".split())
        for _ in range(rng.randrange(2, 4))
    )
    return "".join(syllables) + rng.choice(("", "n", "r", "s", "l", "t"))


def introduce(rng: Random, name: str) -> Turn:
    asked = "(My name is|I am|I'm|Call me|Hello, my name is|Hi, I am|Hello, I am|Hi, I'm) {name}(.|!|)"
    return spin(rng, asked, name=name), f"Nice to meet you, {name}! How can I help you?"


def recall(rng: Random, name: str) -> Turn:
    asked = "(What is my name|What's my name|Do you know my name|Who am I|Do you remember my name)?"
    answer = f"Your name is {name}." if name else "You have not told me your name yet."
    return spin(rng, asked), answer


def own_name(rng: Random, name: str) -> Turn:
    asked = "(What is your name|What's your name|Who are you|What are you|Introduce yourself|Who is this)?"
    return spin(rng, asked), f"My name is {name}. I am a tiny demo model."


def topic(table: tuple[topics.Topic, ...]) -> Callable[[Random], Turn]:
    """A maker of turns that picks a topic of the table, then one of its wordings."""

    def make(rng: Random) -> Turn:
        questions, answers = rng.choice(table)
        return spin(rng, rng.choice(questions)), spin(rng, rng.choice(answers))

    return make


def unknown(rng: Random) -> Turn:
    def thing() -> str:
        return invented(rng) if rng.random() < 0.2 else rng.choice(words.UNKNOWN_THINGS)

    asked = spin(
        rng,
        rng.choice(topics.UNKNOWN),
        thing=thing(),
        thing2=thing(),
        place=rng.choice(words.UNKNOWN_PLACES),
        person=rng.choice(words.UNKNOWN_PEOPLE),
    )
    return sentence(asked), rng.choice(topics.DO_NOT_KNOW)


def animal(rng: Random) -> Turn:
    name = rng.choice(list(words.ANIMALS))
    what, home, food, skill = words.ANIMALS[name]
    many, a = stories.plural(name), "(a/an|the)"
    asked, answer = rng.choice(
        (
            (f"{topics.ASK} {a} {name}?", f"A/an {name} is {what}. It lives {home} and eats {food}."),
            (f"(Tell me|Say) something about {many}.", f"A/an {name} is {what}. It lives {home} and eats {food}."),
            (f"Where (does {a} {name}|do {many}) live?", f"A/an {name} lives {home}."),
            (f"What (does {a} {name}|do {many}) (eat|like to eat|feed on)?", f"A/an {name} eats {food}."),
            (f"What can ({a} {name}|{many}) do?", f"A/an {name} can {skill}."),
            (f"How many legs (does {a} {name}|do {many}) have?", f"A/an {name} has {legs(name)} legs."),
        )
    )
    return spin(rng, asked), spin(rng, answer)


def legs(name: str) -> str:
    return next(count for count, names in words.LEGS.items() if name in names)


def sound(rng: Random) -> Turn:
    name = rng.choice(list(words.SOUNDS))
    asked = (
        "(What (sound|noise) does (a/an|the) {name} make|What does (a/an|the) {name} say|"
        "What (sound|noise) do {many} make|How does (a/an|the) {name} sound)?"
    )
    answer = f'A/an {name} says "{words.SOUNDS[name]}".'
    return spin(rng, asked, name=name, many=stories.plural(name)), spin(rng, answer)


def colour(rng: Random) -> Turn:
    noun = rng.choice(list(words.COLOUR_OF))
    subject = stories.subject(noun)
    asked = "(What|Which) (colour|color) (is|has) {subject}?"
    if rng.random() < 0.2:
        asked = "(Tell me|What is) the (colour|color) of {subject}?"
    answer = sentence(spin(rng, f"{subject} is {words.COLOUR_OF[noun]}."))
    return spin(rng, asked, subject=subject), answer


def mix(rng: Random) -> Turn:
    pair, result = rng.choice(list(words.MIXES.items()))
    first, second = rng.sample(pair, 2)
    asked = (
        "(What (do you get|happens) (when|if) you mix {first} and {second}|What is {first} (and|plus) {second}|"
        "(Mix|Please mix) {first} and {second}|What (colour|color) (do|does) {first} and {second} make)?"
    )
    return spin(rng, asked, first=first, second=second), sentence(f"{first} and {second} make {result}.")


def count(rng: Random) -> Turn:
    end = rng.randrange(2, 11)
    asked = "(Count|Please count|Can you count|Count for me|Can you please count) (to|up to|from one to) {end}(.|?|)"
    shown = words.NUMBERS[end] if rng.random() < 0.6 else str(end)
    return spin(rng, asked, end=shown), sentence(", ".join(words.NUMBERS[1 : end + 1])) + "."


def add(rng: Random) -> Turn:
    """Sums of two numbers from zero to ten, in words or digits."""
    first, second = rng.randrange(11), rng.randrange(11)
    if rng.random() < 0.4:
        asked = f"(What is|How much is|What's|Calculate|) {first}( + |+| plus | and ){second}(?|)"
    else:
        asked = f"(What is|How much is|What's|Calculate) {words.NUMBERS[first]} (plus|and) {words.NUMBERS[second]}?"
    result = f"{words.NUMBERS[first]} plus {words.NUMBERS[second]} is {words.NUMBERS[first + second]}."
    return spin(rng, asked), sentence(result)


def big_sum(rng: Random) -> Turn:
    first, second = rng.randrange(11, 9999), rng.randrange(2, 999)
    sign = rng.choice(("+", "-", "*", "/", "x", "times", "minus", "plus", "divided by"))
    asked = f"(What is|How much is|Calculate|) {first} {sign} {second}(?|)"
    return spin(rng, asked), "That is too hard for me. I can only add numbers up to ten."


def order(rng: Random) -> Turn:
    """What comes after or before a number, a day or a month."""
    names, noun = rng.choice(((words.NUMBERS[:13], "number"), (words.DAYS, "day"), (words.MONTHS, "month")))
    at = rng.randrange(1, len(names) - 1)
    step, word = rng.choice(((1, "after"), (-1, "before")))
    asked = f"(What|Which {noun}) (comes|is) {word} {names[at]}?"
    return spin(rng, asked), sentence(f"{names[at + step]} comes {word} {names[at]}.")


def capital(rng: Random) -> Turn:
    country = rng.choice(list(words.CAPITALS))
    asked = (
        "(What is|What's|Which is|Tell me|Which city is|Do you know|Name) the capital (|city )of {country}?"
    )
    return spin(rng, asked, country=country), f"{words.CAPITALS[country]} is the capital of {country}."


def opposite(rng: Random) -> Turn:
    first, second = rng.choice(list(words.OPPOSITES.items()))
    if rng.random() < 0.3:
        first, second = second, first
    asked = "(What is|What's|Tell me|Name) (the|an) opposite (of|to) {first}?"
    return spin(rng, asked, first=first), f"The opposite of {first} is {second}."


def story(rng: Random) -> Turn:
    """A request for a story about one of the animals; the answer has five sentences."""
    kind = rng.choice(stories.KINDS)
    asked = (
        "(Tell me|Tell|Write|Please tell me|Can you tell me|I want|I would like|Give me|Read me) "
        "(a|a short|a nice|a little|one|another) story(| please)(| about a/an {kind}| about {many})(.|?|)"
    )
    if rng.random() < 0.3:
        asked = "(Tell me a story|Write a story|A story|Please tell a story) about a/an {kind}(.|)"
    asked = spin(rng, asked, kind=kind, many=stories.plural(kind))
    if kind not in asked and stories.plural(kind) not in asked:
        kind = "llama"
    return asked, stories.tale(rng, kind)


MAKERS: tuple[Callable[[Random], Turn], ...] = (
    topic(topics.TALK),
    topic(topics.PRODUCT),
    topic(topics.FACTS),
    unknown,
    animal,
    sound,
    colour,
    mix,
    count,
    add,
    big_sum,
    order,
    capital,
    opposite,
    story,
)
WEIGHTS = (20, 24, 13, 16, 14, 4, 5, 2, 3, 5, 2, 5, 4, 4, 4)


def colloquial(rng: Random, text: str) -> str:
    """The same words as a hurried user might type them."""
    if rng.random() < 0.1:
        text = spin(rng, "(Please|Hello,|Hi,|Hey,|OK,|So,|And|Well,|Now) ") + " " + lowered(text)
    if rng.random() < 0.1:
        text = text.rstrip(".?!") + spin(rng, "(, please|~please|, thanks|~for me|~now|??|!|...)").replace("~", " ")
    if rng.random() < 0.3:
        text = text.lower()
    if rng.random() < 0.3:
        text = text.rstrip(".?!")
    return typo(rng, text) if rng.random() < 0.06 else text


def lowered(text: str) -> str:
    return text if text.startswith("I ") else text[:1].lower() + text[1:]


def typo(rng: Random, text: str) -> str:
    """One letter dropped or two swapped."""
    at = rng.randrange(max(1, len(text) - 1))
    if rng.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
