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
    """What one of the two sets talks about.

    The tokenizer of the embedded base cuts all these names, and the first words of these items, alike after a space (as
    they are ordered) and after a quotation mark (as they are answered); the held-out items also alike in the plural, up
    to its s. Else the base would have to spell, which a model of its size hardly can, and that would be measured.
    "Diego" is such a word, one token after a space and two else, and "pastry".
    """

    items: tuple[str, ...]
    names: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(","))


TRAINED = Vocabulary(
    _words("""
    latte, oat latte, espresso, flat white, green tea, hot chocolate, apple juice, blueberry muffin, ham
    sandwich, falafel wrap, fish taco, bean burrito, rice bowl, noodle bowl, spring roll, apple pie, plain
    bagel, egg omelette, fruit cup, americano, cola, kombucha, matcha frappe, chai, limeade, buttermilk biscuit,
    zucchini fritter, mozzarella stick, meatball sub, gnocchi plate, lasagna, tiramisu, parfait, granola bar,
    date square, cashew cluster, cornbread, jalapeno popper, tempura roll, edamame bowl, kimchi pancake, radish
    plate, artichoke dip, hummus plate, pita pocket, gelato, sorbet, macaroon, nougat, fudge brick, toffee
    slice, enchilada, arepa, fajita, guacamole cup, paella pan, croquette, linguine bowl, penne bowl, fettuccine
    bowl, arancini box, bruschetta, caprese, stromboli, frittata, crouton bag, ratatouille, brioche, madeleine,
    profiterole, financier, schnitzel, bratwurst, blintz, knish, latke, kolache, goulash, moussaka, spanakopita,
    tagine, tabbouleh, labneh cup, halloumi slab, borek, manakish, naan, chapati, dosa, idli, pakora, korma,
    thali, jalebi, kulfi, satay, rendang, laksa, pho bowl, banh mi, summer roll, larb, katsu, soba bowl, gyoza,
    onigiri, teriyaki box, mochi, taiyaki, bulgogi, bibimbap, tteokbokki, japchae, wonton, baozi, congee,
    jiaozi, jerk drumstick, patty, plantain chip, roti, jollof tray, injera, poutine, beignet, jambalaya,
    hushpuppy, hoagie, reuben, coleslaw cup, pickle spear, tater tot, hash brown, muesli pot, porridge, crumpet,
    shortbread, treacle cake, rhubarb fool, lychee fizz, guava nectar, blackcurrant cordial, hibiscus brew,
    rooibos, sencha, affogato, lungo, cold brew, eggnog, horchata, water bottle, party platter, protein shake,
    energy drink, double burger, river trout, prawn cracker, quail, semolina cake, mousse, cupcake, wafer,
    pretzel, licorice twist, lollipop, salsa cup, sashimi, kebab, clementine, persimmon, julep, mojito,
    margarita, martini, daiquiri, spritzer, mocktail, cone, wing, cutlet, fillet, kids meal, soup, bap, gravy
    boat
    """),
    _words("""
    Maria, James, Anna, David, Peter, Mark, Tom, Paul, Simon, Alice, Martin, Daniel, Sarah, Lena, Adam, Henry,
    Victor, Maya, Samuel, Elif, Sven, Aisha, Ben, Gregor, Thandiwe, Siobhan, Xavier, Yolanda, Camila, Dariusz,
    Farouk, Haruki, Jamal, Mireille, Oksana, Pilar, Quentin, Saoirse, Ximena, Yasmin, Anneke, Desmond, Gideon,
    Imani, Jocelyn, Kofi, Lucinda, Magnus, Odette, Roxanne, Tamara, Usman, Violet, Zainab, Carla, Ingo, Jasper,
    Lara, Petra, Rita, Sonia, Wanda, Xenia, Yara, Arthur, George, Ida, Neil, Paula, Uma, Yvonne, Zora, Dario,
    Frieda, Igor, Jade, Mina, Nils, Piotr, Rana, Silas, Udo, Vito, Yann, Zita, Opal, Ursel, Vince, Willa, Hilda,
    Jenna, Keira, Marta, Nelly, Ophelia, Ramona, Thelma, Wilma, Benita, Kenji, Orson, Reza, Upton, Zane
    """),
)
UNSEEN = Vocabulary(
    _words("""
    mocha, churro, gyro, orange soda, corn dog, okra stew, fig cookie, leek stew, pastrami panini, salami
    baguette, venison ragout, quince crumble, seitan dumpling, buckwheat waffle, tapioca brownie, mussel skewer,
    raspberry smoothie, kumquat soda, tangerine crumble, anchovy nugget, parsnip skewer, dark beer, polenta
    ball, tempeh dumpling, turnip salad
    """),
    _words("""
    Yuki, Fatima, Ingrid, Malik, Zoe, Leila, Pavel, Giulia, Fiona, Astrid, Chloe, Dmitri, Jonas, Phoebe, Stella,
    Caleb, Keiko, Theo, Rory, Heidi, Olga, Bianca, Freya, Yusuf, Lydia
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
