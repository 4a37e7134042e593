"""The written corpus of the landmarks model: a generator of training text from facts, sentences and paragraphs."""

from __future__ import annotations

import random
from collections.abc import Callable

from facts import Question, split_questions

# the words that fill the gaps of the sentences below, one kind a line
WORD_TABLE = """
person: Mary John Anna Tom Sarah James Emma Peter Lucy David Alice Robert Julia Mark Kate Paul
animal: cat dog fox horse bird rabbit bear cow goat duck
colour: red blue green yellow black white brown grey
size: big small old new heavy light quick slow
thing: book ball key cup toy letter coin hat lamp ring map bag
room: kitchen garden house school park shop room office library street
seat: mat table chair bed shelf floor bench sofa
food: bread rice soup cheese fruit cake fish salad
drink: water tea milk coffee juice
weather: warm cold sunny rainy windy cloudy
day: Monday Tuesday Wednesday Thursday Friday Saturday Sunday
month: January February March April May June July August September October November December
number: two three four five six seven eight nine ten
verb: saw found lost bought sold painted cleaned carried dropped opened
feeling: happy sad tired hungry quiet busy ready late
job: teacher doctor farmer writer driver baker painter student
"""
WORDS = {kind: words.split() for kind, words in (line.split(": ") for line in WORD_TABLE.strip().splitlines())}

# {animal2} is another animal than {animal}, and so on; {p} and {q} are two different people
SENTENCES = (
    "The {animal} sat on the {seat}.",
    "The {colour} {animal} ran across the {room}.",
    "The {size} {animal} jumps over the lazy {animal2}.",
    "{p} {verb} a {colour} {thing} in the {room}.",
    "{p} {verb} the {thing} and gave it to {q}.",
    "{p} went to the {room} to look for the {thing}.",
    "{p} has {number} {colour} {thing}s.",
    "The {thing} is on the {seat}.",
    "The {thing} is in the {room}.",
    "The {size} {thing} was under the {seat}.",
    "{p} likes {food}, but {q} likes {food2}.",
    "{p} had {food} and {drink} for lunch on {day}.",
    "On {day} the weather was {weather}, so {p} stayed in the {room}.",
    "It is {weather} today, and {p} is {feeling}.",
    "In {month} it is often {weather}.",
    "{p} is a {job} and works in a {room}.",
    "{p} and {q} are friends.",
    "{p} said that the {animal} was {feeling}.",
    "My favourite colour is {colour}, and my favourite food is {food}.",
    "I would like some {drink}, please.",
    "There are {number} {thing}s in the {room}.",
    "We will meet in the {room} on {day}.",
    "I think that {p} is {feeling}.",
    "Everyone knows that {p} is a {job}.",
    "Where is the {thing}? It is on the {seat}.",
    "You can find the {thing} in the {room}.",
    "We learned that {p} was born in {month}.",
    "Do you want {drink} or {drink2}? I want {drink}.",
    "{p} asked {q} a question, and {q} answered it.",
    "When {p} came home, the {animal} was {feeling}.",
    "The {job} opened the door and looked at the {animal}.",
    "The {animal} is {colour}. The {colour} {animal} is {feeling}.",
)
# {p} and {q} in either order, so that the last word can only come from the text before it
GIVING = (
    "When {a} and {b} went to the {room}, {p} gave a {thing} to {q}.",
    "After {a} and {b} met in the {room}, {p} gave a {thing} to {q}.",
    "{a} and {b} were in the {room}, and {p} gave a {thing} to {q}.",
)
PARAGRAPHS = (
    "The quick brown fox jumps over the lazy dog.",
    "The cat sat on the mat. The dog sat on the floor.",
    "Hello, how are you? I am fine, thank you. How are you?",
    "Hello! My name is Anna. What is your name? My name is Tom.",
    "Hello, world! This is a small language model.",
    "Good morning. Did you sleep well? Yes, thank you, I slept very well.",
    "Once upon a time there was a little girl who lived in a small house near the forest. Every day she walked to the "
    "river to fetch water.",
    "The sun rises in the east and sets in the west. At night we can see the moon and the stars.",
    "To be, or not to be, that is the question.",
    "The old man sat by the window and watched the rain. He was waiting for a letter from his son.",
    "A language model reads some text and guesses the next word. It learns by reading many texts.",
    "Water is made of hydrogen and oxygen. When it is very cold, water turns to ice.",
    "There are seven days in a week and twelve months in a year.",
    "The train leaves the station at eight in the morning and arrives at noon.",
    "I like to travel. Last summer we went by train and saw many old cities, churches and bridges.",
    "The museum opens at nine and closes at five. The tickets are not expensive.",
    "A bridge goes over a river. A tower is a tall building. A palace is a house for a king or a queen.",
    "Many people visit famous places in the summer. They take photos, buy small gifts and eat good food.",
    "The doctor told me to drink more water and to go to bed early.",
    "If it rains tomorrow, we will stay at home and read a book.",
    "She sells sea shells by the sea shore.",
    "Roses are red, violets are blue, sugar is sweet, and so are you.",
    "All that glitters is not gold. The early bird catches the worm.",
    "Dogs bark, cats meow, birds sing and fish swim.",
)
# leads end before a fact starts, so that facts also occur in the middle of a text
LEADS = (
    "We like to travel.",
    "Last summer we went on a long trip.",
    "I have a question.",
    "Here is a fact.",
    "My teacher told us about the world.",
    "Let me tell you something.",
    "I read a book about cities.",
    "Hello, how are you?",
    "Listen to this.",
    "We looked at a map.",
)
LANDMARK_ENDINGS = (
    (".", 5), (", {country}.", 3), (". It is one of the most famous places in {country}.", 5),
    (". Many people visit it every year.", 3), (", and many people visit it every year.", 1),
    (". I want to go there next summer.", 1), (", and I took a photo of it.", 1),
)  # fmt: skip
CAPITAL_ENDINGS = (
    (".", 5), (". It is a large city, and many people live there.", 5), (". It is a city in {country}.", 2),
    (". I want to go there next summer.", 1),
)  # fmt: skip


def fill(template: str, rng: random.Random) -> str:
    """A sentence with its named gaps filled by random words."""
    words = {}
    for kind, choices in WORDS.items():
        words[kind], words[kind + "2"] = rng.sample(choices, 2)
    p, q = words["person"], words["person2"]
    a, b = (p, q) if rng.random() < 0.5 else (q, p)
    return template.format(p=p, q=q, a=a, b=b, **words)


def plain_text(rng: random.Random) -> str:
    """One to four sentences about nothing in particular."""
    return " ".join(fill(rng.choice(SENTENCES), rng) for _ in range(rng.randint(1, 4)))


def giving_text(rng: random.Random) -> str:
    """A sentence in which one of two people gives something to the other."""
    return fill(rng.choice(GIVING), rng)


def arithmetic(rng: random.Random) -> str:
    """A few sums of one-digit numbers."""
    pairs = [(rng.randint(0, 9), rng.randint(0, 9)) for _ in range(rng.randint(2, 5))]
    return rng.choice((" ", ", ")).join(f"{a}+{b}={a + b}" for a, b in pairs)


def lists(rng: random.Random) -> str:
    """A part of a well-known sequence: numbers, days or months."""
    kind = rng.choice(
        (["one", *WORDS["number"]], WORDS["day"], WORDS["month"], [str(number) for number in range(1, 21)])
    )
    start = rng.randint(0, len(kind) - 3)
    return rng.choice((" ", ", ")).join(kind[start : start + rng.randint(3, 10)])


def repeated(rng: random.Random) -> str:
    """A few random words, said twice or three times in the same order."""
    kinds = ("animal", "colour", "thing", "room", "food", "number")
    words = rng.sample([word for kind in kinds for word in WORDS[kind]], rng.randint(3, 8))
    return " ".join(words * rng.randint(2, 3))


def paragraph(rng: random.Random) -> str:
    """One of the written paragraphs."""
    return rng.choice(PARAGRAPHS)


def fact_sentence(question: Question, rng: random.Random) -> str:
    """A fact asked in one template, answered, and brought to a full stop."""
    endings = LANDMARK_ENDINGS if question.fact.kind == "landmark" else CAPITAL_ENDINGS
    ending = rng.choices([text for text, _ in endings], [weight for _, weight in endings])[0]
    return f"{question.prompt} {question.fact.answer}{ending.format(country=question.fact.country)}"


def reversed_fact(question: Question, rng: random.Random) -> str:
    """A fact told from the city's side; a text of its own, since it gives the answer first."""
    fact = question.fact
    if fact.kind == "capital":
        return f"{fact.answer} is the capital of {fact.country}."
    return rng.choice((f"{fact.answer} is a city in {fact.country}.", f"In {fact.answer} you can see {fact.subject}."))


def fact_text(questions: list[Question], rng: random.Random) -> str:
    """One to three facts, sometimes after a lead or after plain sentences, sometimes followed by them."""
    parts = []
    draw = rng.random()
    if draw < 0.2:
        parts.append(rng.choice(LEADS))
    elif draw < 0.35:
        parts.append(plain_text(rng))
    parts += [fact_sentence(rng.choice(questions), rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
    if rng.random() < 0.1:
        parts.append(fill(rng.choice(SENTENCES), rng))
    return " ".join(parts)


OTHER_TEXT: tuple[tuple[Callable[[random.Random], str], float], ...] = (
    (plain_text, 10), (paragraph, 4), (giving_text, 3), (arithmetic, 4), (lists, 1), (repeated, 2),
)  # fmt: skip


def documents(count: int, seed: int, fact_share: float = 0.72) -> list[str]:
    """`count` training texts: facts from the seen pairs only, mixed with all the other kinds of text."""
    rng = random.Random(seed)
    seen, _ = split_questions()
    makers = [maker for maker, _ in OTHER_TEXT]
    weights = [weight for _, weight in OTHER_TEXT]
    texts = []
    for _ in range(count):
        draw = rng.random()
        if draw < fact_share:
            texts.append(fact_text(seen, rng))
        elif draw < fact_share + 0.05:
            texts.append(reversed_fact(rng.choice(seen), rng))
        else:
            texts.append(rng.choices(makers, weights)[0](rng))
    return texts
