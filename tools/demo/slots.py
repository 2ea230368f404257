"""What fills the {slots} of topics.txt: for each section a draw from the lists of words.py."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tools.demo import stories, words
from tools.demo.spin import invented

Slots = dict[str, str]


def filler(rng: Random) -> Slots:
    """What questions beyond the model are about; one thing in four is a made-up word."""
    things = [invented(rng) if rng.random() < 0.25 else rng.choice(words.THINGS) for _ in range(2)]
    return {
        "thing": things[0],
        "thing2": things[1],
        "place": rng.choice(words.PLACES),
        "person": rng.choice(words.PEOPLE),
    }


def animal(rng: Random) -> Slots:
    name = rng.choice(list(words.ANIMALS))
    what, home, food, skill = words.ANIMALS[name]
    legs = next(count for count, names in words.LEGS.items() if name in names)
    many = words.plural(name)
    return {
        "animal": name,
        "animals": many,
        "what": what,
        "home": home,
        "food": food,
        "skill": skill,
        "legs": legs,
    }


def sound(rng: Random) -> Slots:
    name = rng.choice(list(words.SOUNDS))
    return {"animal": name, "animals": words.plural(name), "sound": words.SOUNDS[name]}


def colour(rng: Random) -> Slots:
    noun = rng.choice(list(words.COLOUR_OF))
    return {"noun": words.subject(noun), "colour": words.COLOUR_OF[noun]}


def mix(rng: Random) -> Slots:
    pair, result = rng.choice(list(words.MIXES.items()))
    first, second = rng.sample(pair, 2)
    return {"first": first, "second": second, "result": result}


def count(rng: Random) -> Slots:
    end = rng.randrange(2, 11)
    counted = ", ".join(words.NUMBERS[1 : end + 1])
    return {"end": words.NUMBERS[end], "digits": str(end), "counted": counted}


def add(rng: Random) -> Slots:
    """Sums of two numbers from zero to ten."""
    first, second = rng.randrange(11), rng.randrange(11)
    return {
        "first": words.NUMBERS[first],
        "second": words.NUMBERS[second],
        "first_digits": str(first),
        "second_digits": str(second),
        "sum": words.NUMBERS[first + second],
    }


def hard_sum(rng: Random) -> Slots:
    sign = rng.choice(("+", "-", "*", "/", "x", "times", "minus", "plus", "divided by"))
    return {
        "first": str(rng.randrange(11, 9999)),
        "second": str(rng.randrange(2, 999)),
        "sign": sign,
    }


def order(rng: Random) -> Slots:
    """Neighbours among the numbers, the days or the months."""
    series = ((words.NUMBERS[:13], "number"), (words.DAYS, "day"), (words.MONTHS, "month"))
    names, kind = rng.choice(series)
    at = rng.randrange(len(names) - 1)
    return {"kind": kind, "before": names[at], "after": names[at + 1]}


def capital(rng: Random) -> Slots:
    country, city = rng.choice(list(words.CAPITALS.items()))
    return {"country": country, "capital": city}


def opposite(rng: Random) -> Slots:
    first, second = rng.choice(list(words.OPPOSITES.items()))
    if rng.random() < 0.3:
        first, second = second, first
    return {"first": first, "second": second}


def story(rng: Random) -> Slots:
    name = rng.choice(stories.HEROES)
    return {
        "animal": name,
        "animals": words.plural(name),
        "animal_tale": stories.tale(name),
        "llama_tale": stories.tale("llama"),
    }


SLOTS: dict[str, Callable[[Random], Slots]] = {
    draw.__name__: draw
    for draw in (
        animal,
        sound,
        colour,
        mix,
        count,
        add,
        hard_sum,
        order,
        capital,
        opposite,
        story,
    )
}
"""The sections of topics.txt that have slots of their own."""
