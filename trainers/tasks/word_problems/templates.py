"""The words of generated problems: who, what, the first steps of a problem and the further ones.

A *template* is a first step, `a operation b`; a *follow-up* is a step on its result. {name}, {other}, {thing} and the
like are filled in by `trainers.tasks.word_problems.generator`.
"""

from dataclasses import dataclass

NAMES = {
    "Tom": "he", "Sam": "he", "Ben": "he", "Leo": "he", "Max": "he", "Dan": "he",
    "Ann": "she", "Mia": "she", "Eva": "she", "Lily": "she", "Sara": "she", "Kate": "she",
}  # fmt: skip
POSSESSIVE = {"he": "his", "she": "her"}
THINGS = ("apple", "ball", "book", "card", "cup", "egg", "pen", "toy")  # all take a plain plural -s


@dataclass(frozen=True)
class Template:
    """A first step `a operation b`. `owner` is who has the result, empty where no follow-up can continue."""

    id: str
    operation: str
    owner: str
    body: str
    question: str


@dataclass(frozen=True)
class FollowUp:
    """A further step `result operation b` on what the owner has."""

    id: str
    operation: str
    body: str


# A keyword does not give the operation away: "more", "left", "each", "times", "in total" appear under several of them.
TEMPLATES = (
    Template("buys", "+", "{name}", "{name} has {a} {things} and buys {b} more at the shop.",
             "How many {things} does {name} have now?"),
    Template("more", "+", "{other}", "{name} has {a} {things}. {other} has {b} more {things} than {name}.",
             "How many {things} does {other} have?"),
    Template("fewer-inverse", "+", "{other}", "{name} has {a} {things}, which is {b} fewer than {other} has.",
             "How many {things} does {other} have?"),
    Template("big-and-small", "+", "{name}", "{name} has {a} big {things} and {b} small {things}.",
             "How many {things} does {name} have in total?"),
    Template("left-inverse", "+", "", "{name} gave away {a} {things} and has {b} left.",
             "How many {things} did {name} have at first?"),
    Template("day-and-night", "+", "", "{name} finds {a} {things} in the morning and {b} more at night.",
             "How many {things} does {he} find in total?"),
    Template("gives", "-", "{name}", "{name} has {a} {things} and gives {b} of them to {other}.",
             "How many {things} does {name} have left?"),
    Template("fewer", "-", "{other}", "{name} has {a} {things}. {other} has {b} fewer {things} than {name}.",
             "How many {things} does {other} have?"),
    Template("more-inverse", "-", "{other}", "{name} has {a} {things}, which is {b} more than {other} has.",
             "How many {things} does {other} have?"),
    Template("buys-inverse", "-", "", "{name} buys {b} {things} and now has {a} in total.",
             "How many {things} did {name} have at first?"),
    Template("difference", "-", "", "{name} has {a} {things} and {other} has {b} {things}.",
             "How many more {things} does {name} have than {other}?"),
    Template("the-rest", "-", "", "{name} has {a} {things}. Of these, {b} are small and the rest are big.",
             "How many big {things} does {name} have?"),
    Template("boxes", "*", "{name}", "{name} has {a} boxes with {b} {things} in each box.",
             "How many {things} does {name} have in total?"),
    Template("times", "*", "{other}", "{name} has {a} {things}. {other} has {b} times as many {things} as {name}.",
             "How many {things} does {other} have?"),
    Template("every-day", "*", "", "{name} buys {a} {things} every day for {b} days.",
             "How many {things} does {name} buy in total?"),
    Template("each-gives", "*", "", "Each of {a} friends gives {b} {things} to {name}.",
             "How many {things} does {name} get from them in total?"),
    Template("shares-inverse", "*", "", "{name} shares all {his} {things} among {a} friends. Each friend gets {b}.",
             "How many {things} did {name} have at first?"),
    Template("price", "*", "", "Each {thing} costs {a} dollars and {name} buys {b} {things}.",
             "How many dollars does {name} pay in total?"),
    Template("shares", "/", "", "{name} shares {a} {things} equally among {b} friends.",
             "How many {things} does each friend get?"),
    Template("times-inverse", "/", "{other}", "{name} has {a} {things}, which is {b} times as many as {other} has.",
             "How many {things} does {other} have?"),
    Template("groups", "/", "{name}", "{name} splits {a} {things} into {b} equal groups and keeps only one group.",
             "How many {things} does {name} keep?"),
    Template("boxes-inverse", "/", "", "{name} puts {a} {things} into boxes with {b} {things} in each box.",
             "How many boxes does {name} need?"),
    Template("price-inverse", "/", "", "{name} pays {a} dollars for {b} {things} with the same price.",
             "How many dollars does each {thing} cost?"),
    Template("last", "/", "", "{name} has {a} {things} and sells {b} of them every day.",
             "How many days will the {things} last?"),
)  # fmt: skip
FOLLOW_UPS = (
    FollowUp("then-buys", "+", "Then {owner} buys {b} more {things}."),
    FollowUp("then-finds", "+", "Then {owner} finds {b} {things} at home."),
    FollowUp("then-gives", "-", "Then {owner} gives away {b} {things}."),
    FollowUp("then-sells", "-", "Then {owner} sells {b} of the {things}."),
    FollowUp("then-times", "*", "Then {owner} gets more and has {b} times as many {things} as before."),
    FollowUp("later-times", "*", "Some days later {owner} has {b} times as many {things}."),
    FollowUp("then-groups", "/", "Then {owner} splits the {things} into {b} equal groups and keeps only one group."),
    FollowUp("then-boxes", "/", "Then {owner} puts the {things} into {b} equal boxes and sells all but one box."),
)
FINAL_QUESTION = "How many {things} does {owner} have now?"
