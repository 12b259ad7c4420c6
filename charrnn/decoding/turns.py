"""Who speaks: the convention by which a text is a conversation, and where the model's turn ends.

A line that begins with `you` is yours, a line that begins with `model` is the model's, a blank line ends a conversation
(see corpora/README.md). Knows nothing of sessions, tokens or terminals.
"""

from __future__ import annotations

from dataclasses import dataclass

from charrnn.errors import UsageError

LONGEST = 100  # characters of a prefix


@dataclass(frozen=True)
class Turns:
    """What your lines and the model's lines begin with."""

    you: str = "> "
    model: str = "< "

    def __str__(self) -> str:
        return f"{self.you},{self.model}"

    @property
    def told(self) -> bool:
        """Whether a model of this convention predicts your lines as well as its own."""
        return bool(self.you)

    def asked(self, text: str) -> str:
        """Your turn `text` as it stands in a conversation, up to where the answer begins."""
        return self.typing(text) + "\n" + self.model

    def typing(self, text: str) -> str:
        """The beginning of your turn, as far as it is typed."""
        return "\n".join(self.you + line for line in text.split("\n"))

    def typed(self, text: str) -> str:
        """What you typed, of what `asked` made of it."""
        body = text.removeprefix(self.you).removesuffix(self.model).removesuffix("\n")
        return body.replace("\n" + self.you, "\n")


STANDARD = Turns()
PAIRS = Turns("", "")  # each line of yours is a source, what follows up to <eos> is the answer: of a model that learnt pairs


def parsed(text: str) -> Turns:
    """Turns typed as "PREFIX_YOU,PREFIX_MODEL"; raises UsageError."""
    hint = "Type for example --turns 'You: ,Bot: '"
    you, comma, model = text.partition(",")
    if not comma or "," in model:
        raise UsageError(f"--turns is {text[:LONGEST]!r}; expected two beginnings of lines with one comma between them.", hint)
    if not you or not model or you.startswith(model):  # a line of yours would look like one more of the model's
        raise UsageError(f"--turns is {text[:LONGEST]!r}; expected two beginnings of lines that can be told apart.", hint)
    if not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError("--turns is not valid UTF-8.", hint)
    if "\n" in text or "\r" in text or max(len(you), len(model)) > LONGEST:
        raise UsageError(f"--turns holds a line end, or more than {LONGEST} characters.", hint)
    return Turns(you, model)


class Reply:
    """The model's turn while it comes: what of it is to be shown, and whether it has ended.

    It ends at a line end, unless the next line begins with the model's prefix, too; that prefix is not shown. `text` is
    what of the turn is certain, prefixes included.
    """

    def __init__(self, turns: Turns) -> None:
        self._next = "\n" + turns.model  # of PAIRS each line end: an answer of theirs ends with its stream alone
        self._held = ""  # what may turn out to be the beginning of another line of the model's
        self.text = ""
        self.ended = False

    def push(self, piece: str) -> str:
        """The next piece of the text in; what is to be shown of it out."""
        shown: list[str] = []
        for letter in piece:
            if self.ended:
                break
            self._held += letter
            if self._held == self._next:
                self.text += self._held
                shown.append("\n")
                self._held = ""
            elif not self._next.startswith(self._held):
                self.ended = len(self._held) > 1  # a line end, and another line that is not the model's
                if not self.ended:
                    self.text += letter
                    shown.append(letter)
                self._held = ""
        return "".join(shown)
