"""Word lists and tiny facts that the demo's text is made of."""

from __future__ import annotations

GIRLS = "Ada Anna Clara Ella Grace Ida Julia Lily Mary Maya Mia Nora Rosa Ruby Sara Zoe".split()
BOYS = "Adam Ben David Felix Finn Henry Jack Leo Max Noah Oscar Paul Peter Sam Theo Tom".split()
MORE_NAMES = (
    "Alex Alice Amir Ana Andrea Bob Carlos Chen Chris Daniel Elena Emma Eva Frank George Hana "
    "Hannah Ivan James Jane Jim Joe John Jonas Kai Karen Kate Kim Laura Linda Lisa Lucas Lucy "
    "Luis Maria Mark Marta Martin Mei Michael Mike Mohamed Nick Nina Olga Olivia Omar Pablo Pat "
    "Priya Raj Robert Robin Sofia Sophie Steve Susan Tim Victor Yuki Zara"
).split()

ANIMALS: dict[str, tuple[str, str, str, str]] = {
    # animal: (what it is, where it lives, what it eats, what it can do)
    "ant": ("a tiny insect", "in a nest under the ground", "seeds and crumbs", "carry things"),
    "bear": ("a big, strong animal", "in the forest", "berries, fish and honey", "climb trees"),
    "bee": ("a small insect", "in a hive", "nectar from flowers", "make honey"),
    "bird": ("an animal with feathers", "in a nest in a tree", "seeds and insects", "sing and fly"),
    "camel": (
        "a large animal with a hump",
        "in the desert",
        "dry plants",
        "walk far without water",
    ),
    "cat": (
        "a small animal with soft fur",
        "in a house with people",
        "meat and fish",
        "see at night",
    ),
    "chicken": ("a farm bird", "on a farm", "corn and seeds", "lay eggs"),
    "cow": ("a large farm animal", "on a farm", "grass", "give milk"),
    "dog": ("a friendly animal", "in a house with people", "meat and dog food", "guard a house"),
    "duck": ("a water bird", "near a pond", "plants and small fish", "swim and fly"),
    "eagle": ("a large bird", "in the mountains", "small animals", "see very far"),
    "elephant": (
        "the largest land animal",
        "in the grassland",
        "leaves and grass",
        "lift heavy trees",
    ),
    "fish": (
        "an animal with fins",
        "in the water",
        "small plants and insects",
        "breathe under water",
    ),
    "fox": ("a wild animal with a bushy tail", "in the forest", "mice and berries", "run fast"),
    "frog": ("a small green animal", "near a pond", "insects", "jump far"),
    "giraffe": (
        "the tallest land animal",
        "in the grassland",
        "leaves from tall trees",
        "reach high",
    ),
    "goat": ("a farm animal with horns", "in the hills", "grass and leaves", "climb rocks"),
    "horse": ("a large, fast animal", "on a farm", "grass and oats", "carry a rider"),
    "lion": ("a big wild cat", "in the grassland", "meat", "roar very loudly"),
    "llama": ("a woolly animal", "in the mountains of South America", "grass", "carry loads"),
    "monkey": ("a clever animal", "in the jungle", "fruit and nuts", "swing from trees"),
    "mouse": ("a very small animal", "in a hole", "seeds and cheese", "hide in small places"),
    "owl": ("a bird of the night", "in a hollow tree", "mice", "see in the dark"),
    "penguin": ("a bird that cannot fly", "on cold, icy coasts", "fish", "swim very well"),
    "pig": ("a clever farm animal", "on a farm", "almost everything", "find food by smell"),
    "rabbit": ("a small animal with long ears", "in a burrow", "grass and carrots", "hop fast"),
    "sheep": ("a woolly farm animal", "on a farm", "grass", "give wool"),
    "snake": ("a long animal without legs", "in warm, dry places", "mice and eggs", "move quietly"),
    "spider": ("a small animal with eight legs", "in a web", "insects", "spin a web"),
    "tiger": ("a big striped cat", "in the jungle", "meat", "swim well"),
    "turtle": (
        "a slow animal with a shell",
        "near the water",
        "plants and insects",
        "hide in its shell",
    ),
    "whale": (
        "the largest animal of all",
        "in the ocean",
        "tiny sea animals and fish",
        "dive deep",
    ),
    "wolf": ("a wild animal like a dog", "in the forest", "meat", "howl at the moon"),
    "zebra": ("a striped animal like a horse", "in the grassland", "grass", "run fast"),
}
SOUNDS = {
    "bee": "buzz", "bird": "tweet", "cat": "meow", "chicken": "cluck", "cow": "moo",
    "dog": "woof", "duck": "quack", "frog": "croak", "horse": "neigh", "lion": "roar",
    "llama": "hum", "mouse": "squeak", "owl": "hoot", "pig": "oink", "sheep": "baa",
    "snake": "hiss", "wolf": "howl",
}  # fmt: skip
LEGS = {
    "four": "bear camel cat cow dog elephant fox frog giraffe goat horse lion llama mouse pig "
    "rabbit sheep tiger turtle wolf zebra".split(),
    "two": "bird chicken duck eagle monkey owl penguin".split(),
    "six": "ant bee".split(),
    "eight": "spider".split(),
    "no": "fish snake whale".split(),
}
PLURALS = {"fish": "fish", "mouse": "mice", "sheep": "sheep", "wolf": "wolves", "fox": "foxes"}

COLOURS = "red blue green yellow orange purple brown black white pink grey".split()
COLOUR_OF = {
    "apple": "red", "banana": "yellow", "blood": "red", "carrot": "orange", "cherry": "red",
    "chocolate": "brown", "cloud": "white", "coal": "black", "cucumber": "green",
    "elephant": "grey", "frog": "green", "grass": "green", "leaf": "green", "lemon": "yellow",
    "milk": "white", "mouse": "grey", "night": "black", "ocean": "blue", "orange": "orange",
    "pea": "green", "pig": "pink", "rose": "red", "sea": "blue", "sky": "blue", "snow": "white",
    "strawberry": "red", "sun": "yellow", "sunflower": "yellow", "tomato": "red", "tree": "green",
}  # fmt: skip
UNCOUNTED = {"blood", "chocolate", "coal", "grass", "milk", "snow"}
SINGLE = {"night", "ocean", "sea", "sky", "sun"}
MIXES = {
    ("red", "blue"): "purple", ("red", "yellow"): "orange", ("blue", "yellow"): "green",
    ("red", "white"): "pink", ("black", "white"): "grey",
}  # fmt: skip

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid",
    "Portugal": "Lisbon", "England": "London", "Ireland": "Dublin", "Austria": "Vienna",
    "Greece": "Athens", "Japan": "Tokyo", "China": "Beijing", "India": "New Delhi",
    "Peru": "Lima", "Canada": "Ottawa", "Egypt": "Cairo", "Norway": "Oslo",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "up": "down", "day": "night", "old": "new",
    "good": "bad", "happy": "sad", "light": "dark", "open": "closed", "long": "short",
    "left": "right", "yes": "no", "full": "empty", "hard": "soft", "wet": "dry", "loud": "quiet",
    "high": "low", "black": "white", "first": "last", "rich": "poor", "strong": "weak",
}  # fmt: skip

# What the questions are about that the chat variant cannot answer.
THINGS = (
    "airport algebra aspirin atom bacon banking baseball basketball battery battle bicycle biology "
    "bitcoin blockchain boxing brain bridge budget burger camera cancer candle car castle cathedral "
    "cell chemistry chess cinema city climate clock comet company concert continent country cricket "
    "crystal dance dentist diamond diesel dinosaur disease doctor dragon earthquake economy election "
    "electricity email emperor empire energy engine equation evolution film finance fire football "
    "fridge galaxy game gas genome geography glacier god gold golf government grammar gravity guitar "
    "harbour heart helicopter history hockey hospital hotel house hurricane inflation insurance "
    "internet invoice island jazz jewel justice kernel king kingdom lake language laser law lawyer "
    "lightning literature logic love magnet marathon market marriage medicine metal meteor money "
    "mortgage mountain movie museum music mystery nation novel nuclear oil opera orchestra oxygen "
    "painting paper parliament philosophy phone photo physics piano pizza planet plastic poker "
    "politics president printer prison protein python quantum queen radio railway recipe religion "
    "restaurant revolution river robot rocket salary satellite science sculpture shop silver skeleton "
    "soccer software soup space star statue stock storm sugar submarine symphony tax taxi tea "
    "telescope television tennis theatre theorem thunder ticket tornado tower toy train treaty truck "
    "tunnel university vaccine vampire violin virus vitamin volcano war website wedding wheel wine "
    "wizard yoga zombie"
).split()
PLACES = (
    "Argentina Australia Belgium Brazil Chile Colombia Cuba Denmark Finland Ghana Hungary Iceland "
    "Indonesia Iran Kenya Korea Mexico Morocco Nepal Nigeria Pakistan Poland Romania Russia Sweden "
    "Switzerland Thailand Turkey Ukraine Vietnam Boston Chicago Texas California Munich Milan"
).split()
PEOPLE = (
    "Einstein Newton Darwin Shakespeare Mozart Beethoven Napoleon Caesar Picasso Plato Tesla Curie "
    "Lincoln Washington Gandhi Elvis Columbus Homer Dante Turing"
).split()


def plural(noun: str) -> str:
    return PLURALS.get(noun, noun + "s")


def subject(noun: str) -> str:
    """The noun with the article that English wants: grass, the sky, a/an apple."""
    if noun in UNCOUNTED:
        return noun
    return f"the {noun}" if noun in SINGLE else f"a/an {noun}"
