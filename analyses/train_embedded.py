"""Train the embedded language model.

Question: can two million parameters, one core and about 70 minutes give a language model that is worth dissecting: one
that has learnt Python, C++ and English, each far better than counting pairs of tokens does?
An answer: bits per byte on documents never trained on, per corpus, below 1.40 (Python), 0.97 (C++) and 1.45 (English),
which 15 minutes of a plain recipe with little English reached on other held-out files. `embedded_losses` measures it.
Measured: 1.11 and 1.39 beat two of them; C++ has 1.23, on a split without near-duplicates and generated operators.

Minutes: about 70 on one core (`--scale cpu`); half a minute for `--scale quick`. Stopped, the same command goes on.
Writes an ordinary Hugging Face folder: config.json, model.safetensors, tokenizer files, and card.json (what made it).
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("RAYON_NUM_THREADS", "1")  # the tokenizer's threads; the budget is one core

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM as Llama

from skilloc.losses import nll_sum
from skilloc.tasks.subtask import Split
from skilloc.tasks.text import BUILTIN, Document, builtin_documents, documents_digest, split_documents
from skilloc.training.products import product_advice

OUT = Path(__file__).parents[1] / "skilloc" / "assets" / "embedded"
RUNS = Path(__file__).parents[1] / "runs" / "train_embedded"
END = "<|endoftext|>"  # id 0: ends every document, and opens a text
SHAPE: dict[str, Any] = dict(
    vocab_size=2048, hidden_size=192, num_hidden_layers=4, intermediate_size=512, num_attention_heads=6,
    num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rms_norm_eps=1e-5, hidden_act="silu",
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.02,
)  # fmt: skip
LENGTH = 256
LOOK = 160  # rows of each selection split that are looked at on the way
MICRO = 8  # rows at a time: larger pieces leave the cache
SEED = 0
MUON_RATE, ADAM_RATE, WARM_UP, DECAY = 0.02, 0.005, 0.02, 0.1

Streams = dict[str, dict[Split, Tensor]]


@dataclass(frozen=True)
class Scale:
    """How much of it: optimizer steps, rows of each corpus in a batch, documents per corpus, steps between looks.

    And the type of the matrix products, in which it also looks; weights, sums and optimizers are float32.
    """

    steps: int
    rows: tuple[int, int, int]  # in the order of BUILTIN
    documents: int | None
    look: int
    products: Literal["float32", "bfloat16"] = "float32"


SCALES = {"quick": Scale(6, (1, 1, 1), 40, 6), "cpu": Scale(5000, (6, 4, 6), None, 250, "bfloat16")}


def read(scale: Scale) -> dict[str, dict[Split, list[Document]]]:
    """Give the documents of every corpus and split."""
    return {name: split_documents(builtin_documents(name)[: scale.documents]) for name in BUILTIN}


def train_tokenizer(corpora: dict[str, dict[Split, list[Document]]]) -> Tokenizer:
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


def windows(tokens: Tensor, start: int, n: int, key: int) -> Tensor:
    """Rows `start` to `start + n` of an endless shuffled reading: each pass has another offset and another order."""
    per_pass = (len(tokens) - 1) // LENGTH - 1
    rows = []
    for number in range(start, start + n):
        turn, place = divmod(number, per_pass)
        generator = np.random.default_rng([SEED, key, turn])
        offset = int(generator.integers(LENGTH))
        first = offset + LENGTH * int(generator.permutation(per_pass)[place])
        rows.append(tokens[first : first + LENGTH + 1])
    return torch.stack(rows).long()


def build() -> Any:
    """Make the untrained model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))


def total_nats(model: Llama, rows: Tensor, products: str) -> Tensor:
    """Cross-entropy in nats, summed over all targets."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=products == "bfloat16"):
        hidden = model.model(input_ids=rows[:, :-1], use_cache=False).last_hidden_state
        logits = F.linear(hidden, model.lm_head.weight)
    return nll_sum(logits, rows[:, 1:])


def optimizers(model: Llama) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the embedding and the norms."""
    inner = [weight for name, weight in model.named_parameters() if weight.ndim == 2 and "layers" in name]
    known = {id(weight) for weight in inner}
    outer = [weight for weight in model.parameters() if id(weight) not in known]
    return [
        torch.optim.Muon(inner, lr=MUON_RATE, weight_decay=DECAY, momentum=0.95),
        torch.optim.AdamW(outer, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def rate(step: int, steps: int) -> float:
    """Part of the full learning rate: linear warm-up, then linear to zero."""
    warm = max(1, round(WARM_UP * steps))
    return min((step + 1) / warm, (steps - step) / (steps - warm))


@torch.no_grad()
def look(model: Llama, streams: Streams, products: str) -> dict[str, float]:
    """Mean nats per token at the beginning of each selection split."""
    means = {}
    for name, part in streams.items():
        tokens = part["selection"][: LOOK * LENGTH + 1].long()
        rows = tokens[: (len(tokens) - 1) // LENGTH * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH)
        total = sum(float(total_nats(model, rows[at : at + MICRO], products)) for at in range(0, len(rows), MICRO))
        means[name] = round(total / (len(rows) * LENGTH), 4)
    return means


def describe(documents: list[Document], tokens: Tensor) -> dict[str, Any]:
    """What a split of a corpus holds; bytes are those of the text in UTF-8, without END."""
    size = sum(len(document.text.encode("utf-8", "replace")) for document in documents)
    digest = documents_digest(documents)
    return {"documents": len(documents), "bytes": size, "tokens": len(tokens) - 1, "hash": digest}


def train(model: Llama, streams: Streams, scale: Scale, checkpoint: Path) -> tuple[list[dict[str, Any]], float]:
    """Train, from `checkpoint` where there is one; return the looks at the selection split, and the seconds taken."""
    chosen = optimizers(model)
    first, spent, looks = 0, 0.0, []
    if checkpoint.is_file():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        for optimizer, one in zip(chosen, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
        first, spent, looks = state["step"], state["seconds"], json.loads(state["looks"])
        print(f"going on at step {first}", flush=True)
    began = said = time.perf_counter()
    recent: list[float] = []
    for step in range(first, scale.steps):
        recent.append(one_step(model, chosen, streams, scale, step))
        done = step + 1
        if time.perf_counter() - said > 30 or done == scale.steps:
            said = time.perf_counter()
            speed = (done - first) * sum(scale.rows) * LENGTH / (said - began)
            print(f"step {done}/{scale.steps}  loss {np.mean(recent):.3f}  {speed:.0f} tokens/s", flush=True)
            recent = []
        if done % scale.look == 0 or done == scale.steps:
            looks.append({"step": done, **look(model, streams, scale.products)})
            print(f"selection, nats per token: {looks[-1]}", flush=True)
            state = {"model": model.state_dict(), "optimizers": [one.state_dict() for one in chosen], "step": done}
            state |= {"seconds": spent + time.perf_counter() - began, "looks": json.dumps(looks)}
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    return looks, spent + time.perf_counter() - began


def one_step(model: Llama, chosen: list[torch.optim.Optimizer], streams: Streams, scale: Scale, step: int) -> float:
    """One optimizer step on fresh rows of every corpus; return the loss."""
    parts = zip(BUILTIN, scale.rows, strict=True)
    rows = [windows(streams[name]["train"], step * n, n, key) for key, (name, n) in enumerate(parts)]
    batch = torch.cat(rows)
    total = 0.0
    for at in range(0, len(batch), MICRO):
        loss = total_nats(model, batch[at : at + MICRO], scale.products) / (len(batch) * LENGTH)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer, most in zip(chosen, (MUON_RATE, ADAM_RATE), strict=True):
        for group in optimizer.param_groups:
            group["lr"] = most * rate(step, scale.steps)
        optimizer.step()
        optimizer.zero_grad()
    return total


def save(model: Llama, tokenizer: Tokenizer, made: dict[str, Any], out: Path) -> None:
    """Write the folder aside, then put it in place."""
    aside = out.with_name(out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=SHAPE["max_position_embeddings"]
    ).save_pretrained(aside)
    (aside / "model.safetensors").chmod(0o644)
    (aside / "card.json").write_text(json.dumps({"made": made}, indent=1) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    aside.replace(out)


def main(arguments: list[str] | None = None) -> None:
    """Read, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the model; replaced when training has ended")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of checkpoints")
    chosen = parser.parse_args(arguments)
    if chosen.scale == "quick" and chosen.out == OUT:
        parser.error("--scale quick makes a toy; give it a folder of its own with --out")
    torch.set_num_threads(1)
    scale = SCALES[chosen.scale]
    corpora = read(scale)
    tokenizer = train_tokenizer(corpora)
    streams = {name: {key: stream(tokenizer, part) for key, part in parts.items()} for name, parts in corpora.items()}
    data = {
        name: {split: describe(part, streams[name][split]) for split, part in parts.items()}
        for name, parts in corpora.items()
    }
    run = {"data": data, "shape": SHAPE, "scale": asdict(scale), "rates": [MUON_RATE, ADAM_RATE, WARM_UP, DECAY]}
    key = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:12]
    chosen.runs.mkdir(parents=True, exist_ok=True)
    model = build()
    if scale.products == "bfloat16":
        print(product_advice(rows=MICRO * LENGTH, width=SHAPE["hidden_size"]), flush=True)
    looks, seconds = train(model, streams, scale, chosen.runs / f"{key}.pt")
    made = {
        "command": f"python analyses/train_embedded.py --scale {chosen.scale}",
        "date": str(date.today()),
        "seed": SEED,
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")}
        | {"python": platform.python_version()},
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "length": LENGTH,
        "steps": scale.steps,
        "tokens_seen": scale.steps * sum(scale.rows) * LENGTH,
        "minutes": round(seconds / 60, 1),
        **run,
        "looks": looks,
    }
    save(model, tokenizer, made, chosen.out)


if __name__ == "__main__":
    main()
