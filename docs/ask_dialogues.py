"""How often a chat model answers to the point: python docs/ask_dialogues.py RUN [--temp 0.5] [--show]

Asks forty simple things that Pim of corpora/dialogues.txt knows an answer to, each at the beginning of a conversation, and
then all of them in one conversation, in another order each time; three seeds. A reply counts if it holds a word that an
answer to the point must hold. A coarse measure, but the same for every model.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

from charrnn.cli.sessions import partner
from charrnn.decoding.events import Text
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.tree import Partner
from charrnn.decoding.turns import STANDARD
from charrnn.runs import model, registry

SEEDS = range(3)
QUESTIONS = {
    "hello": "hello|hi|hey", "good morning": "morning", "hi pim": "hello|hi|hey", "whats ur name": "pim",
    "what is your name?": "pim",
    "who are you": "pim|program", "are you a robot": "robot|program", "are you human?": "human|person|program",
    "how old are you": "minute|old|young", "where do you live": "terminal|folder|checkpoints", "favourite colour?": "green",
    "what colour do you like": "green", "your favourite number": "seven", "which season do you like": "autumn",
    "what do you drink": "tea", "do you like tea": "tea", "favourite animal": "snail", "do you like snails": "snail",
    "best word?": "lantern", "who is button": "moth", "do you like rain": "rain", "its raining": "rain", "i am sad": "sorry|sad",
    "im so tired": "tired|rest|sleep", "i am hungry": "eat|hungry|bread|soup|toast", "tell me a joke": "joke|why|what",
    "tell me a story": "story|once|moth|snail", "write a poem": "poem|rain|rhyme|moon", "thank you": "welcome|glad|thank",
    "bye": "bye|see you", "good night": "night|sleep", "what time is it": "clock|time",
    "what is the weather": "weather|window|see", "what is two plus two": "four", "i have an exam tomorrow": "exam|luck|tomorrow",
    "my dog is barking": "dog|bark", "do you sleep": "sleep", "are you happy": "happy|glad",
    "you are stupid": "small|sorry|stupid|try|mistake|learn", "i love you": "love|kind|thank",
}  # fmt: skip


def main() -> None:
    """Ask, and print two shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--temp", type=float, default=0.5)
    parser.add_argument("--show", action="store_true", help="print the conversations")
    asked = parser.parse_args()
    other = partner(model.load(registry.resolve(asked.run, Path("checkpoints"))))
    alone = together = 0
    for seed in SEEDS:
        order = random.Random(seed).sample(list(QUESTIONS), len(QUESTIONS))
        alone += sum(answered(begun(other, asked.temp, seed), question, False) for question in order)
        session = begun(other, asked.temp, seed)
        together += sum(answered(session, question, asked.show) for question in order)
    count = len(SEEDS) * len(QUESTIONS)
    print(f"to the point: {alone / count:.0%} at the beginning, {together / count:.0%} in one long conversation ({count} each)")


def begun(other: Partner, temp: float, seed: int) -> Session:
    """A new conversation."""
    return Session(other, Settings(temp=temp, seed=seed), STANDARD)


def answered(session: Session, question: str, show: bool) -> bool:
    """Whether the reply to `question` is to the point."""
    reply = "".join(event.text for event in session.feed(question) if isinstance(event, Text))
    hit = re.search(QUESTIONS[question], reply.lower()) is not None
    if show:
        print(f"> {question}\n< {reply}{'' if hit else '   (not counted)'}")
    return hit


if __name__ == "__main__":
    main()
