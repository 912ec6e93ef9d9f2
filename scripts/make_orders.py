"""Write the text set that ships with the project: orders in English, each with the same as strict JSON.

    python scripts/make_orders.py

Nothing is downloaded; the same files come out each time. Written into assets/examples/llm-orders:

- train.jsonl: 400 orders to learn from;
- held_out.jsonl: 100 orders to measure with. No name in them, and no word of an item, occurs anywhere in train.jsonl,
  so that only reading the order gives the right answer. Sentences, quantities, sizes and notes are of the same kinds.

An answer always has the same keys in the same order, as ``json.dumps`` writes them: the name; the items, each with its
quantity as a number, its size (small, medium, large or null) and its name in the singular; the note, or null.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "examples" / "llm-orders"
SYSTEM = "Write the order as JSON."
TRAIN, HELD_OUT = 400, 100

SENTENCES = (
    "{order} for {name}, please.{note}",
    "Hi, can I get {order} for {name}?{note}",
    "It's {name}. I'd like {order}.{note}",
    "{name} here, I'll take {order}.{note}",
    "I'll have {order}.{note} The name is {name}.",
    "Please send {order} to {name}.{note}",
    "Order for {name}: {order}.{note}",
    "{name} wants {order}.{note}",
    "Could we order {order}?{note} It's for {name}.",
    "Put down {order} under {name}.{note}",
)
NOTES = ("{note}, please.", "{note}.", "Note: {note}.")
NOTED = (
    "no sugar",
    "no onions",
    "extra hot",
    "extra spicy",
    "gluten free",
    "no ice",
    "well done",
    "sauce on the side",
    "no nuts",
    "cut in half",
    "in a paper bag",
    "extra cheese",
)
NUMBERS = {
    1: ("a", "one", "1"),
    2: ("two", "2"),
    3: ("three", "3"),
    4: ("four", "4"),
    5: ("five", "5"),
    6: ("six", "6"),
    7: ("seven", "7"),
    8: ("eight", "8"),
    9: ("nine", "9"),
    10: ("ten", "10"),
    12: ("a dozen", "12"),
}
HOW_OFTEN = (8, 5, 4, 3, 2, 2, 1, 1, 1, 1, 2)
"""Of the keys of NUMBERS, in their order."""
SIZES = ("small", "medium", "large")
JOINTS = (" and ", ", plus ")


@dataclass(frozen=True)
class Vocabulary:
    """What one of the two sets talks about."""

    items: tuple[str, ...]
    names: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(","))


TRAINED = Vocabulary(
    _words("""
    latte, oat latte, cappuccino, espresso, flat white, green tea, iced tea, hot chocolate, lemonade, apple juice,
    banana smoothie, blueberry muffin, chocolate cookie, cinnamon roll, cheese sandwich, ham sandwich, chicken wrap,
    falafel wrap, tomato soup, potato soup, garden salad, pasta salad, beef burger, veggie burger, pepperoni pizza,
    mushroom pizza, fish taco, bean burrito, rice bowl, noodle bowl, spring roll, apple pie, cherry pie, carrot cake,
    lemon tart, peach tart, vanilla milkshake, strawberry milkshake, almond croissant, plain bagel, egg omelette,
    grilled peach, bacon sandwich, mint tea, honey cake, lamb kebab, cheese nacho, fruit cup, pomegranate spritz,
    americano, cortado, seltzer, cola, sparkling cider, tonic, kombucha, matcha frappe, chai, grape juice, limeade,
    buttermilk biscuit, poppy strudel, zucchini fritter, onion ring, garlic knot, mozzarella stick, meatball sub,
    steak quesadilla, pulled pork bun, crab cake, lobster bisque, clam chowder, squash risotto, gnocchi plate,
    ravioli plate, lasagna, cannoli, tiramisu, parfait, granola bar, yogurt pot, date square, apricot danish,
    plum galette, cashew cluster, peanut bar, pecan roll, sesame cracker, rye loaf, sourdough loaf, cornbread,
    jalapeno popper, chili bowl, tempura roll, tofu skewer, edamame bowl, kimchi pancake, ube tart, sausage roll,
    cucumber salad, beet salad, kale salad, radish plate, olive focaccia, artichoke dip, hummus plate, pita pocket,
    gelato, sorbet, popsicle, marshmallow, pavlova, macaroon, truffle, nougat, fudge brick, toffee slice
    """),
    _words("""
    Maria, James, Anna, David, Laura, Peter, Sofia, Mark, Emma, Lucas, Julia, Tom, Nina, Paul, Clara, Simon,
    Alice, Martin, Eva, Daniel, Sarah, Oliver, Lena, Adam, Grace, Henry, Rosa, Victor, Maya, Leo, Irene, Felix,
    Hannah, Ivan, Ruth, Karl, Olivia, Samuel, Tara, Noah, Carlos, Amy, Boris, Kate, Elif, Jin, Nora, Sven,
    Aisha, Ben, Gregor, Thandiwe, Siobhan, Takumi, Xavier, Yolanda, Bjorn, Camila, Dariusz, Eduardo, Farouk,
    Gwendolyn, Haruki, Isabel, Jamal, Katarina, Lorenzo, Mireille, Nikolai, Oksana, Pilar, Quentin, Rafael,
    Saoirse, Tobias, Ulrike, Valentina, Winston, Ximena, Yasmin, Zachary, Anneke, Bartosz, Celeste, Desmond,
    Eleni, Francesca, Gideon, Hiroshi, Imani, Jocelyn, Kofi, Lucinda, Magnus, Nadia, Odette, Percy, Roxanne,
    Stefan, Tamara, Usman, Violet, Wilhelm, Zainab
    """),
)
UNSEEN = Vocabulary(
    _words("""
    mocha, macchiato, ginger beer, orange soda, mango lassi, coconut water, raspberry scone, walnut brownie,
    pumpkin donut, maple waffle, turkey panini, tuna melt, salmon baguette, lentil stew, shrimp curry, duck dumpling,
    spinach quiche, avocado toast, pear crumble, fig pudding, hazelnut eclair, caramel crepe, churro, corn dog,
    paneer samosa
    """),
    _words("""
    Priya, Connor, Yuki, Fatima, Diego, Ingrid, Malik, Beatrice, Hugo, Zoe, Kwame, Leila, Pavel, Amara, Giulia, Rashid,
    Fiona, Mateo, Astrid, Omar, Chloe, Dmitri, Wendy, Jonas, Esther
    """),
)


def main() -> None:
    """Write both files."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, vocabulary, count in (("train", TRAINED, TRAIN), ("held_out", UNSEEN, HELD_OUT)):
        lines = [json.dumps({"messages": messages}) + "\n" for messages in orders(vocabulary, count, seed=name)]
        (FOLDER / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def orders(vocabulary: Vocabulary, count: int, seed: str) -> list[list[dict[str, str]]]:
    """Conversations about ``count`` different orders."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        asked, answer = order(vocabulary, draw)
        found[asked] = json.dumps(answer)
    return [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": asked},
            {"role": "assistant", "content": answer},
        ]
        for asked, answer in found.items()
    ]


def order(vocabulary: Vocabulary, draw: random.Random) -> tuple[str, dict[str, object]]:
    """One order in English, and what it means."""
    name = draw.choice(vocabulary.names)
    items = draw.sample(vocabulary.items, draw.choices((1, 2), weights=(2, 1))[0])
    spoken, meant = zip(*(_item(item, draw) for item in items), strict=True)
    note = draw.choice(NOTED) if draw.random() < 0.4 else None
    text = draw.choice(SENTENCES).format(order=draw.choice(JOINTS).join(spoken), name=name, note=_note(note, draw))
    answer = {"name": name, "items": list(meant), "note": note}
    return text[0].upper() + text[1:], answer


def _item(item: str, draw: random.Random) -> tuple[str, dict[str, object]]:
    """An item as it is spoken of, and as it is meant."""
    quantity = draw.choices(tuple(NUMBERS), weights=HOW_OFTEN)[0]
    size = draw.choice(SIZES) if draw.random() < 0.5 else None
    number = draw.choice(NUMBERS[quantity])
    thing = plural(item) if quantity > 1 else item
    described = f"{size} {thing}" if size else thing
    if number == "a" and described[0] in "aeiou":
        number = "an"
    return f"{number} {described}", {"quantity": quantity, "size": size, "item": item}


def plural(item: str) -> str:
    """More than one of it."""
    if item.endswith(("ch", "sh", "ss", "x", "s")):
        return f"{item}es"
    if item.endswith("y") and item[-2] not in "aeiou":
        return f"{item[:-1]}ies"
    return f"{item}s"


def _note(note: str | None, draw: random.Random) -> str:
    if note is None:
        return ""
    sentence = draw.choice(NOTES).format(note=note)
    return f" {sentence[0].upper()}{sentence[1:]}"


if __name__ == "__main__":
    main()
