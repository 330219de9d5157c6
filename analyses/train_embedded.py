"""Train the embedded language model, and its siblings: the same without one of its corpora, or from another seed.

Question: can two million parameters, one core and about 70 minutes give a language model that is worth dissecting: one
that has learnt Python, C++ and English, each far better than counting pairs of tokens does? And what is a model like
that is its equal in everything, but never saw one of the three?
An answer: bits per byte on documents never trained on, per corpus, below 1.40 (Python), 0.97 (C++) and 1.45 (English),
which 15 minutes of a plain recipe with little English reached on other held-out files. `embedded_losses` measures it.
Measured: 1.11 and 1.39 beat two of them; C++ has 1.23, on a split without near-duplicates and generated operators.

A sibling (`--without english`, `--seed 1`) has the embedded model's tokenizer, shape, recipe and number of tokens; the
other corpora share out the rows of the one that is left out. Without English is meant: comments and docstrings of the
code go too, and how much of what reads as English that leaves is recorded.

Minutes: about 65 on one core (`--scale cpu`); half a minute for `--scale quick`. Stopped, the same command goes on.
Writes an ordinary Hugging Face folder: config.json, model.safetensors, tokenizer files, and card.json (what made it).
"""

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # the tokenizer's threads; the budget is one core

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from _code import bare
from skilloc.models.language import EMBEDDED, open_model
from skilloc.models.makers import save_model
from skilloc.tasks import Examples
from skilloc.tasks.corpora import prose
from skilloc.tasks.subtask import Split
from skilloc.tasks.text import BUILTIN, Document, builtin_documents, documents_digest, split_documents
from skilloc.training import Checkpoints, Group, History, Products, TrainConfig
from skilloc.training import train as train_model
from skilloc.training.products import product_advice

RUNS = Path(__file__).parents[1] / "runs" / "train_embedded"
END = "<|endoftext|>"  # id 0: ends every document, and opens a text
SHAPE: dict[str, Any] = dict(
    vocab_size=2048, hidden_size=192, num_hidden_layers=4, intermediate_size=512, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu",
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.02,
)  # fmt: skip
LENGTH = 256
LOOK = 160  # rows of each selection split that are looked at on the way

Corpora = dict[str, dict[Split, list[Document]]]
Streams = dict[str, dict[Split, Tensor]]


@dataclass(frozen=True)
class Scale:
    """How much of it: optimizer steps, rows of each corpus in a batch, documents per corpus, steps between looks.

    And the type of the matrix products; weights, sums and optimizers are float32.
    """

    steps: int
    rows: tuple[int, int, int]  # in the order of BUILTIN
    documents: int | None
    look: int
    products: Products = "float32"


SCALES = {"quick": Scale(6, (1, 1, 1), 40, 6), "cpu": Scale(5000, (6, 4, 6), None, 250, "bfloat16")}


def recipe(scale: Scale) -> TrainConfig:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms, on one schedule."""
    return TrainConfig(
        steps=scale.steps, rate=0.005, optimiser="adamw", eps=1e-8, betas=(0.9, 0.98), momentum=0.95, warm_up=0.02,
        decay="linear", clip=1.0, groups=(Group(r"_proj\b", "muon", 0.02, weight_decay=0.1),),
        evaluate_every=scale.look, products=scale.products,
    )  # fmt: skip


def read(scale: Scale, without: str | None) -> Corpora:
    """Give the documents of every corpus and split; without English, code has no comments and docstrings."""
    corpora = {name: split_documents(builtin_documents(name)[: scale.documents]) for name in BUILTIN}
    if without == "english":
        for name in ("python", "cpp"):
            corpora[name] = {
                split: [found for found in map(bare, part) if found is not None]
                for split, part in corpora[name].items()
            }
    return {name: parts for name, parts in corpora.items() if name != without}


def rows_of(scale: Scale, without: str | None) -> dict[str, int]:
    """Rows of each corpus in a batch; those of one that is left out go to the others, as they have them."""
    rows = dict(zip(BUILTIN, scale.rows, strict=True))
    if without is not None:
        free = rows.pop(without)
        first, second = rows
        more = round(free * rows[first] / (rows[first] + rows[second]))
        rows = {first: rows[first] + more, second: rows[second] + free - more}
    return rows


def train_tokenizer(corpora: Corpora) -> Tokenizer:
    """Byte-level BPE from the same number of characters of every corpus' train split."""
    size = min(sum(len(document.text) for document in splits["train"]) for splits in corpora.values())

    def texts() -> Iterator[str]:
        for splits in corpora.values():
            left = size
            for document in splits["train"]:
                yield document.text[:left]
                left = max(0, left - len(document.text))

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"], special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def stream(tokenizer: Tokenizer, documents: list[Document]) -> Tensor:
    """All documents as one sequence of token ids, each document after an END, and one END last."""
    encoded = tokenizer.encode_batch([document.text for document in documents], add_special_tokens=False)
    return torch.tensor([0] + [token for one in encoded for token in (*one.ids, 0)], dtype=torch.int32)


def windows(tokens: Tensor, start: int, n: int, key: int, seed: int) -> Tensor:
    """Rows `start` to `start + n` of an endless shuffled reading: each pass has another offset and another order."""
    per_pass = (len(tokens) - 1) // LENGTH - 1
    rows = []
    for number in range(start, start + n):
        turn, place = divmod(number, per_pass)
        generator = np.random.default_rng([seed, key, turn])
        offset = int(generator.integers(LENGTH))
        first = offset + LENGTH * int(generator.permutation(per_pass)[place])
        rows.append(tokens[first : first + LENGTH + 1])
    return torch.stack(rows).long()


def batch(streams: Streams, rows: dict[str, int], seed: int, step: int) -> Examples:
    """Fresh rows of every corpus."""
    keys = {name: key for key, name in enumerate(BUILTIN)}
    parts = [windows(streams[name]["train"], step * n, n, keys[name], seed) for name, n in rows.items()]
    return _examples(torch.cat(parts))


def _examples(rows: Tensor) -> Examples:
    return Examples(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def looked_at(streams: Streams) -> dict[str, Examples]:
    """The beginning of each selection split."""
    found = {}
    for name, part in streams.items():
        tokens = part["selection"][: LOOK * LENGTH + 1].long()
        rows = tokens[: (len(tokens) - 1) // LENGTH * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH)
        found[name] = _examples(rows)
    return found


def build(tokenizer: Any, seed: int) -> Any:
    """Make the untrained model, wrapped."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    return open_model(model, tokenizer=tokenizer).model


def describe(documents: list[Document], tokens: Tensor) -> dict[str, Any]:
    """What a split of a corpus holds; bytes are those of the text in UTF-8, without END."""
    size = sum(len(document.text.encode("utf-8", "replace")) for document in documents)
    digest = documents_digest(documents)
    return {"documents": len(documents), "bytes": size, "tokens": len(tokens) - 1, "hash": digest}


def english_in(documents: list[Document]) -> int:
    """How many bytes of the texts are paragraphs that read as English (`tasks.corpora.prose`)."""
    return sum(len(prose(_uncommented(document.text), set()).encode()) for document in documents)


def _uncommented(text: str) -> str:
    return "\n".join(line.lstrip(" \t/*#'\"") for line in text.split("\n"))


def train(
    model: Any, streams: Streams, scale: Scale, rows: dict[str, int], seed: int, folder: Path
) -> tuple[History, float]:
    """Train in place; stopped, the same call goes on. Return the looks, and minutes of one core at this run's pace."""
    began, steps = time.process_time(), 0

    def sample(step: int) -> Examples:
        nonlocal steps
        steps += 1
        return batch(streams, rows, seed, step)

    data = {name: {split: len(part) for split, part in parts.items()} for name, parts in streams.items()}
    history = train_model(
        model, sample, recipe(scale), evaluate=looked_at(streams),
        checkpoints=Checkpoints(folder, 1, {"streams": data, "rows": rows, "seed": seed}),
    )  # fmt: skip
    return history, (time.process_time() - began) / max(1, steps) * scale.steps / 60


def save(model: Any, tokenizer: Any, made: dict[str, Any], out: Path, *, dtype: torch.dtype) -> None:
    """Write the folder aside, then put it in place."""
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    save_model(model.to(dtype), aside, tokenizer=tokenizer)
    (aside / "card.json").write_text(json.dumps({"made": made}, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    aside.replace(out)


def main(arguments: list[str] | None = None) -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--without", choices=BUILTIN, help="leave a corpus out: a sibling, saved in bfloat16")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the reading; not 0: a sibling")
    parser.add_argument("--out", type=Path, help="folder of the model; replaced when training has ended")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of checkpoints")
    parser.add_argument(
        "--products", choices=get_args(Products), help="type of the matrix products, if not the scale's"
    )
    chosen = parser.parse_args(arguments)
    sibling = chosen.without is not None or chosen.seed != 0
    if chosen.out is None and (chosen.scale == "quick" or sibling):
        parser.error("a toy or a sibling needs a folder of its own; name it with --out")
    torch.set_num_threads(1)
    scale, out = SCALES[chosen.scale], chosen.out or EMBEDDED
    scale = replace(scale, products=chosen.products or scale.products)
    corpora = read(scale, chosen.without)
    tokenizer = Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")) if sibling else train_tokenizer(corpora)
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=SHAPE["max_position_embeddings"]
    )
    streams = {name: {key: stream(tokenizer, part) for key, part in parts.items()} for name, parts in corpora.items()}
    data = {
        name: {split: describe(part, streams[name][split]) for split, part in parts.items()}
        for name, parts in corpora.items()
    }
    rows = rows_of(scale, chosen.without)
    made: dict[str, Any] = {
        "command": f"python analyses/train_embedded.py --scale {chosen.scale}"
        + (f" --without {chosen.without}" if chosen.without else "")
        + (f" --seed {chosen.seed}" if chosen.seed else "")
        + (f" --products {chosen.products}" if chosen.products else ""),
        "without": chosen.without,
        "seed": chosen.seed,
        "english_bytes": {name: english_in(parts["train"]) for name, parts in corpora.items() if name != "english"},
        "data": data, "shape": SHAPE, "scale": asdict(scale), "rows": rows, "recipe": asdict(recipe(scale)),
    }  # fmt: skip
    model = build(wrapped, chosen.seed)
    if scale.products == "bfloat16":
        print(product_advice(rows=8 * LENGTH, width=SHAPE["hidden_size"]), flush=True)
    history, minutes = train(model, streams, scale, rows, chosen.seed, chosen.runs / f"{chosen.without}_{chosen.seed}")
    made |= {
        "date": str(date.today()),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
        | {"python": platform.python_version()},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "length": LENGTH,
        "steps": scale.steps,
        "tokens_seen": scale.steps * sum(rows.values()) * LENGTH,
        "minutes": round(minutes, 1),
        "looks": [
            {"step": int(step), **{name: round(float(history.of(name)[i]), 4) for name in streams}}
            for i, step in enumerate(history.of("step"))
        ],
    }
    save(model, wrapped, made, out, dtype=torch.bfloat16 if sibling else torch.float32)


if __name__ == "__main__":
    main()
