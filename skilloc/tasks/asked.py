"""How rows of a file become prompts with answers. Plain values: no torch here, because the command line reads this."""

import re
from dataclasses import dataclass

from skilloc.mistakes import WrongValue, of_kind, whole

BY = ("text", "letter")
PADS = ("right", "left")
NAMED = ("prompt", "answer", "wrong", "corrupted", "group", "subject", "choices")
MADE = ("induction", "indirect", "greater", "agreement", "brackets", "copying", "arguments")
"""Behaviours that are made from word lists (`tasks.behaviours`)."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Asked:
    """Which fields of a row say what, and how a prompt is put.

    Attributes:
        prompt: field of the prompt or question; rows are then prompts with answers, and not running text.
        answer: field of the right answer; of multiple choice, its label, its number from 0, its letter or its text. A
            space is put between prompt and answer, unless either has one there.
        wrong: field of a wrong answer, or of a list of them.
        corrupted: field of the prompt's twin with another answer, for the reference `paired`.
        group: field of the relation or topic; each becomes a subtask of its own.
        subject: field of what the prompt is about; rows about one subject stay on one side of every split.
        choices: field of the options of multiple choice: a list of texts or of {"text": ..., "label": ...}, or
            {"text": [...], "label": [...]}.
        by: options are told apart by their text, or by a letter after being listed.
        template: how a prompt is put, such as "Q: {prompt} A:"; without it, as it is, or, with choices, as lm-eval's
            ARC (by text) and MMLU (by letter).
        shots: answered examples from the train split before each prompt.
        pad: side that shorter prompts are padded on; no number depends on it.
        rotation: 1 or 2: another third of a small group is reported on (cross-fitting).

    Example:
        >>> import skilloc as sk
        >>> sk.Asked(prompt="question", template="Q: {prompt} A:").put("who?")
        'Q: who? A:'
    """

    prompt: str | None = None
    answer: str = "answer"
    wrong: str | None = None
    corrupted: str | None = None
    group: str | None = None
    subject: str | None = None
    choices: str | None = None
    by: str = "text"
    template: str | None = None
    shots: int = 0
    pad: str = "right"
    rotation: int = 0

    def __post_init__(self) -> None:
        for name in NAMED:
            of_kind(name, getattr(self, name), (str, type(None)), "use the name of a field")
        for name, value, allowed in (("by", self.by, BY), ("pad", self.pad, PADS)):
            if value not in allowed:
                raise WrongValue(f'`{name}` is "{value}"; use {" or ".join(allowed)}')
        whole("shots", self.shots, 0)
        whole("rotation", self.rotation, 0, 2)
        if self.template is not None:
            self._check_template(self.template)
        if self.choices and self.wrong:
            raise WrongValue("`choices` and `wrong` do not go together; the other options are the wrong answers")
        others = (self.choices, self.wrong, self.group, self.corrupted, self.subject, self.template)
        if self.prompt is None and any(others):
            raise WrongValue("`prompt` is not given, but other fields of prompts are; name the field of the prompt")

    def _check_template(self, template: str) -> None:
        if "{prompt}" not in template:
            raise WrongValue(f'`template` is "{template}"; write {{prompt}} where the prompt goes')
        if other := [one for one in re.findall(r"\{(\w[\w.]*)\}", template) if one != "prompt"]:
            raise WrongValue(
                f'`template` is "{template}", but nothing is put for {{{other[0]}}}; only {{prompt}} is, so write the '
                "rest into the field of the prompt"
            )

    @property
    def named(self) -> dict[str, str]:
        """The fields that are asked for, by what they say."""
        return {name: field for name in NAMED if (field := getattr(self, name))}

    def put(self, prompt: str, options: tuple[str, ...] = ()) -> str:
        """Return a prompt as the model reads it."""
        said = prompt
        if options and self.by == "letter":
            listed = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
            said = "\n".join([prompt.strip(), *listed])
        default = (
            "{prompt}" if not options else "{prompt}\nAnswer:" if self.by == "letter" else "Question: {prompt}\nAnswer:"
        )
        return (self.template or default).replace("{prompt}", said)
