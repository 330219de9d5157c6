"""What faults are tried on: a small network of a parity world, a tiny language model, and what was made of them."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from faults.driver import copied, ran

Command = Sequence[str] | Callable[[], None]

PARITY = ("--subtask", "parity_0", "parity_1")
FEW = ("--sequences", "24", "--folds", "4")
TEXTS = ("--subtask", "cats=cats.jsonl", "code=code.jsonl", "--length", "8", "--sequences", "8", "--folds", "4")


def make_network() -> None:
    """Save a network that was trained for a moment, and its world, as the folder `net`."""
    import torch

    import skilloc as sk
    from skilloc.study.world import save_world

    subtasks = sk.parity_subtasks(6, atoms=2, k=2)

    def mixed(step: int) -> sk.Examples:
        drawn = [subtask.draw(32, split="train", seed=step) for subtask in subtasks.values()]
        return sk.Examples(torch.cat([one.inputs for one in drawn]), torch.cat([one.targets for one in drawn]))

    network = sk.MLP(8, 2, width=8, depth=3, seed=0)
    sk.train(network, mixed, sk.TrainConfig(steps=200, rate=1e-2), evaluate={}, progress=False)
    sk.save_model(network, "net")
    save_world(subtasks.values(), "net")


def make_language_model() -> None:
    """Save a Llama of two layers with loud weights and its tokenizer as `llama`, two texts, and a task of lm-eval."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    lines = {
        "cats": [f"the cat number {i} sat on mat {i * i % 17} and saw {i % 5} birds." for i in range(200)],
        "code": [f"def f{i}(x):\n    return x * {i} + {i * i % 13}" for i in range(200)],
    }
    for name, texts in lines.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([text for texts in lines.values() for text in texts], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")
    shape = {"hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        **shape, vocab_size=len(fast), max_position_embeddings=32, initializer_range=0.5, tie_word_embeddings=True
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained("llama")
    fast.save_pretrained("llama")
    rows = [{"question": f"{i} cats?", "choices": ["yes", "no"], "answer": i % 2} for i in range(6)]
    Path("legs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    Path("legs.yaml").write_text(TASK)


def make_sweep() -> None:
    """Save a sweep of four cells, and the module of its cell function."""
    Path("ground_cells.py").write_text(CELLS)
    Path("grid.toml").write_text(SWEEP)


CELLS = """from dataclasses import dataclass

import numpy as np

from skilloc.store import Labelled


@dataclass(frozen=True)
class Line:
    slope: float = 1.0
    count: int = 3


def line(spec: Line):
    values = spec.slope * np.arange(spec.count, dtype=float)
    return {"last": values[-1]}, {"values": Labelled(values, ("step",))}
"""

SWEEP = """cell = "ground_cells:line"
[grid.product]
slope = [0.5, 1.0]
count = [2, 3]
"""

TASK = """task: legs
dataset_path: json
dataset_kwargs:
  data_files:
    test: legs.jsonl
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""


def fetch() -> None:
    """Run `skilloc fetch smollm2` into a cache here; what would be downloaded is the tiny model."""
    from skilloc.cli import main
    from skilloc.models import fetch as fetching

    def download(work: Path) -> Path:
        return Path(shutil.copy("handed/model.gguf", work / "model.gguf"))

    os.environ["XDG_CACHE_HOME"] = os.path.abspath("cache")
    fetching._download = download
    main(["fetch", "smollm2"])


def small_demo() -> None:
    """Run the demo on the tiny model and a few documents of its own."""
    from dataclasses import replace

    from skilloc.cli import tour
    from skilloc.study import draws
    from skilloc.tasks.text import Document

    def documents(name: str) -> list[Document]:
        texts = Path("cats.jsonl" if name == "english" else "code.jsonl").read_text().splitlines()
        return [Document(f"{name} {json.loads(line)['text']}", f"{name}:{i}") for i, line in enumerate(texts)]

    draws.documents = documents
    settings = replace(tour.QUICK.settings, sequences=6, length=12, folds=6, sample=8, top=4)
    plan = replace(tour.QUICK, settings=settings, sizes=(10,), circuit=tour.QUICK.circuit._replace(n=4))
    tour.run_demo(Path("demo"), plan=plan, model="llama")


NETWORKS: dict[str, tuple[str, ...]] = {
    "effects": ("effects", "net", "--out", "study", *PARITY, *FEW, "--workers", "1"),
    "two-stage": (
        *("effects", "net", "--out", "stage", *PARITY, *FEW, "--workers", "1", "--method", "two-stage"),
        *("--sample", "10", "--top", "2"),
    ),
    "removal": ("removal", "study", "--count", "2", "3", "--draws", "3"),
    "locality": ("locality", "study", "--count", "3"),
    "circuit": ("circuit", "study", "--out", "study/circuits", "--count", "4", "--draws", "3"),
    "localize": (
        *("localize", "net", "--keep", "parity_0", "--out", "local", *PARITY, "--steps", "450"),
        *("--examples", "16", "--held-out", "24", "--evaluate-every", "50"),
    ),
    "prune": ("prune", "study", "--out", "small", "--count", "9", "--draws", "3", "--keep", "parity_0"),
    "show": ("show", "study"),
    "compare": ("compare", "study", "again", "--out", "compared"),
    "report": ("report", "study"),
    "relearn": (
        *("relearn", "net", "small/model", "--attack", "parity_1", "--out", "attack", *PARITY, "--seeds", "2"),
        *("--rates", "0.01", "--budgets", "1", "2", "--examples", "16", "--held-out", "16", "--folds", "4"),
        *("--repair", "2"),
    ),
}

ONE_WAY = (
    *("relearn", "net", "small/model", "--attack", "parity_1", "--out", "plain", *PARITY, "--seeds", "2", "--ways"),
    *("plain", "--rates", "0.01", "--budgets", "1", "--examples", "16", "--held-out", "16", "--folds", "4"),
    *("--repair", "2"),
)

SWEEPS: dict[str, tuple[str, ...]] = {
    "sweep": ("sweep", "run", "grid.toml", "--out", "swept"),
    "table": ("sweep", "table", "swept", "--csv", "table.csv"),
}

LANGUAGE: dict[str, tuple[str, ...]] = {
    "texts": ("effects", "llama", "--out", "texts", *TEXTS, "--workers", "1"),
    "positions": ("positions", "texts", "--count", "2"),
    "narrow": ("prune", "texts", "--out", "narrow", "--share", "0.6", "--keep", "cats", "--draws", "2"),
    "export": ("export", "llama", "narrow", "--out", "handed", "--gguf"),
    "check": ("check", "llama"),
    "evaluate": ("evaluate", "llama", "--tasks", "legs.yaml", "--held", "texts", "--count", "2"),
}

COMMANDS: dict[str, tuple[str, ...]] = {**NETWORKS, **SWEEPS, **LANGUAGE}
"""By what is tried: a command line that works on the ground, in the order in which each finds what it needs."""

LONG: dict[str, tuple[str, ...]] = {"demo": ("demo", "--out", "demo", "--workers", "1")}
"""What takes too long to be killed more than a few times; nothing else needs it."""

EVERY: dict[str, Command] = {
    **NETWORKS,
    "relearn in one way": ONE_WAY,
    **SWEEPS,
    **LANGUAGE,
    "fetch": fetch,
    "small demo": small_demo,
    **LONG,
}
"""All that is killed, in this order."""

SAMPLED = ("relearn", *LONG)
"""What would take half a day to be killed before each of its changes; a smaller one of each is."""

TIMED = ("handed/README.md",)
"""Files that say how long something took: no two are alike."""


GROUNDS: tuple[tuple[Callable[[], None], str], ...] = (
    (make_network, "effects"),
    (make_sweep, "sweep"),
    (make_language_model, "texts"),
)
"""What is made anew, and the first of `EVERY` that is tried on it; those after it find what it left."""


def make_ground(place: Path) -> dict[str, Path]:
    """Run all commands but the long once, each after what it needs; return the folder that each finds, by name."""
    homes: dict[str, Path] = {}
    makers = {name: make for make, name in GROUNDS}
    home = place
    for name, command in EVERY.items():
        if name in makers:
            home = place / str(len(homes))
            home.mkdir()
            _run(home, makers[name])
        if name == "compare":
            shutil.copytree(home / "study", home / "again")
        homes[name] = home
        if name not in LONG:
            home = copied(home, place / f"{len(homes)}0")
            _run(home, command)
    return homes


def _run(home: Path, command: Command) -> None:
    done = ran(home, command)
    assert done.status == 0, f"{command}: {done.error}"
