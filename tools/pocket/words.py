"""Word lists of the corpus grammar, written for this project."""

from __future__ import annotations

NAMES = (
    "Ada Ben Cleo Dana Eli Fay Gus Hana Ivo Jana Kai Lena Milo Nora Otto Pia Quin Rosa Sam Tara "
    "Uma Vera Will Xena Yara Zoe Anna Boris Carla David Elsa Finn Greta Hugo Ines Jonas Klara "
    "Lukas Maria Nils Olga Paul Rita Simon Tilda Ursula Viktor Wanda Yusuf Zara Amir Bella Chen "
    "Dora Emil Farid Gina Hassan Ida Jamal Kira Leo Mina Noah Omar Petra Raj Sofia Tom Udo Vivian"
).split()
ADJECTIVES = (
    "red blue green small big old young happy sad quick slow bright dark quiet loud warm cold "
    "soft hard round flat tall short brave shy clever lazy wild calm sweet sour dry wet clean "
    "dusty golden silver purple orange yellow white black gray tiny huge gentle fierce lonely"
).split()
NOUNS = (
    "fox dog cat bird horse mouse tree house river mountain cloud star moon sun stone flower "
    "garden boat train car road bridge book letter song lamp chair table window door key box "
    "bottle cup plate hat coat shoe ring clock bell drum kite ball basket ladder rope wheel "
    "forest field lake island beach valley village city castle tower market school kitchen"
).split()
VERBS = (
    "runs sleeps jumps sings waits shines falls grows moves turns stops flies swims walks".split()
)
ADVERBS = "slowly quickly quietly loudly today again always never often here there away".split()
ANIMALS = (
    "fox dog cat bear rabbit mouse owl frog horse hen duck goat wolf deer crow turtle hedgehog "
    "squirrel beaver otter badger sparrow lion tiger monkey camel penguin seal whale snail bee"
).split()
PEOPLE = (
    "baker farmer sailor teacher miller painter gardener doctor king queen boy girl knight witch "
    "robot shepherd fisherman tailor clockmaker dragon giant wizard pilot singer dancer cook"
).split()
THINGS = (
    "file name report notes data image log list backup draft summary table photo script".split()
)
EXTENSIONS = "txt md py log csv json png jpg pdf html c sh toml yaml".split()
FOLDERS = "src docs build data logs photos music backup notes projects tmp work images site".split()
KEYS = (
    "name age city color size price count title author year country animal food job hobby id "
    "status level score code street email language month day weight height type owner shop"
).split()
CITIES = "Berlin Paris Rome Oslo Madrid Lisbon Vienna Prague Dublin Athens Cairo Tokyo Lima".split()
COLORS = "red blue green yellow black white orange purple brown pink".split()
FOODS = "bread soup rice cheese apples cake pasta beans honey salad".split()
CLOSERS = "over stop done thanks bye okay end please roger cheers ahoy indeed amen bingo".split()
OPENERS = "Ahoy Hello Sure Well Indeed Listen Attention Okay Yes Captain Friend Behold".split()
PLACES = (
    "in a small house by the river|at the edge of a dark forest|on a hill above the sea|"
    "in a quiet village|near an old bridge|under a tall oak tree|in a city of many towers|"
    "on a little island|behind the mill|in a valley full of flowers|beside a frozen lake|"
    "in a garden with high walls"
).split("|")
