"""How rows of a file become prompts with answers. Plain values: no torch here, because the command line reads this."""

from dataclasses import dataclass

from skilloc.mistakes import WrongValue, of_kind, whole

BY = ("text", "letter")
PADS = ("right", "left")
NAMED = ("prompt", "answer", "wrong", "corrupted", "group", "subject", "choices")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Asked:
    """Which fields of a row say what, and how a prompt is put.

    Attributes:
        prompt: field of the prompt or question; rows are then prompts with answers, and not running text.
        answer: field of the right answer; of multiple choice, its number from 0, letter, label or text.
        wrong: field of a wrong answer, or of a list of them.
        corrupted: field of the prompt's twin with another answer, for the reference `paired`.
        group: field of the relation or topic; each becomes a subtask of its own.
        subject: field of what the prompt is about; rows about one subject stay on one side of every split.
        choices: field of the options of multiple choice: a list, or {"text": [...], "label": [...]}.
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
        if self.template is not None and "{prompt}" not in self.template:
            raise WrongValue(f'`template` is "{self.template}"; write {{prompt}} where the prompt goes')
        if self.prompt is None and (self.choices or self.wrong or self.group or self.corrupted):
            raise WrongValue("`prompt` is not given, but other fields of prompts are; name the field of the prompt")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read, with ARC's own name for the answer."""
        named = (self.prompt, self.answer, "answerKey", self.wrong, self.corrupted, self.group, self.subject)
        return tuple(dict.fromkeys(name for name in (*named, self.choices) if name))

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
