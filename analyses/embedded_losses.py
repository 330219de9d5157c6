"""How well does the embedded language model predict text that it has never read?

Question: what are its losses on the report split of each corpus, and how much of that is more than counting which token
follows which? An answer: bits per byte per corpus, well below those of a bigram model that was trained on that corpus
alone; and the bigram models' losses on each other's corpora, which say how far apart the three are.

Of a sibling (`--model FOLDER`, see `train_embedded`) the same numbers say what it lacks: its losses on the corpus that
it never saw, beside those of a bigram model of it.

Minutes: about 5 on one core (`--scale cpu`); half a minute for `--scale quick`.
Reads the model folder as any user does, and writes its card: README.md, and the same numbers in card.json.
"""

import argparse
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from skilloc.tasks.losses.nll import mean_nll
from skilloc.tasks.subtask import Split
from skilloc.tasks.text import BUILTIN, Document, builtin_documents, documents_digest, split_documents
from train_embedded import SCALES
from train_embedded import read as read_corpora

MODEL = Path(__file__).parents[1] / "skilloc" / "assets" / "embedded"
DOCUMENTS = {"quick": 40, "cpu": None}
SMOOTHING = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
ROWS = 16
CARD = """---
license: mit
library_name: transformers
---
# {title}

A Llama-style model of {parameters:,} parameters ({num_hidden_layers} layers, width {hidden_size}, gated MLP
{intermediate_size}, {num_attention_heads} heads on {num_key_value_heads} keys and values, RMSNorm, rotary, byte-level
BPE of {vocab_size:,} tokens), made {purpose}. It has read {corpora}, and nothing else; it is not made to write any of
them.{lacks}

Made by `{command}` on {date} with seed {seed}: {steps:,} steps of Muon and AdamW, {tokens_seen:,} tokens seen,
{minutes} minutes on one core of a CPU, Python {python}, torch {torch}. Rows were {length} tokens long, and every
document followed the token `<|endoftext|>` (id 0): open a text with it. Weights are {weights}; training computed in
{products}.

## Loss on held-out documents

Report split, never trained on nor looked at; rows of {length} tokens; float32{texts}. The bigram model counts pairs of
tokens in the train split of that corpus alone, with add-k smoothing, k chosen on the selection split.

{losses}

## Between corpora

Bits per byte on the report split of each corpus.

{crossed}

## Data

Read by `skilloc.tasks.text`: split by content, near-duplicates on one side. A hash names the exact texts.

{data}

The texts are the standard library's source (PSF licence), torch's headers (BSD-3-Clause, and the licences of what they
bundle), and docstrings of packages that skilloc requires (mostly BSD, MIT and Apache-2.0).
"""

NAMES = {"python": "Python source", "cpp": "C++ headers", "english": "technical English"}

Streams = dict[str, dict[Split, Tensor]]
Sizes = dict[str, dict[Split, int]]


def read(tokenizer: Any, corpora: dict[str, dict[Split, list[Document]]]) -> tuple[Streams, Sizes]:
    """Token ids of every split, each document after the end-of-document token; and bytes of text in UTF-8."""
    streams: Streams = {}
    sizes: Sizes = {}
    end = tokenizer.eos_token_id
    for name, parts in corpora.items():
        streams[name], sizes[name] = {}, {}
        for split, part in parts.items():
            texts = [document.text for document in part]
            encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
            streams[name][split] = torch.tensor([end] + [token for ids in encoded for token in (*ids, end)])
            sizes[name][split] = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return streams, sizes


@torch.no_grad()
def model_nats(model: transformers.PreTrainedModel, tokens: Tensor, length: int) -> float:
    """Total loss of all tokens but the first, read in rows; the context of a token is what precedes it in its row."""
    rows = [tokens[at : at + length + 1] for at in range(0, len(tokens) - 1, length)]
    whole, rest = torch.stack(rows[:-1]), rows[-1][None]
    total = 0.0
    for chunk in (*(whole[at : at + ROWS] for at in range(0, len(whole), ROWS)), rest):
        logits = model(chunk[:, :-1], use_cache=False).logits
        total += float(mean_nll(logits, chunk[:, 1:]).sum()) * (chunk.shape[1] - 1)
    return total


def count(tokens: Tensor, vocabulary: int) -> Tensor:
    """How often each token is followed by each."""
    pairs = tokens[:-1] * vocabulary + tokens[1:]
    return torch.bincount(pairs, minlength=vocabulary**2).view(vocabulary, vocabulary).double()


def bigram_nats(counts: Tensor, seen: Tensor, k: float) -> float:
    """Total loss of counted pairs under P(b | a) = (seen[a, b] + k) / (seen[a] + k · vocabulary)."""
    logs = torch.log((seen + k) / (seen.sum(1, keepdim=True) + k * len(seen)))
    return -float((counts * logs).sum())


def measure(model: transformers.PreTrainedModel, streams: Streams, sizes: Sizes, length: int) -> dict[str, Any]:
    """Loss per token and per byte of the model, and of each corpus' bigram model, on every report split."""

    def scaled(nats: float, name: str) -> dict[str, float]:
        tokens, size = len(streams[name]["report"]) - 1, sizes[name]["report"]
        return {"nats_per_token": round(nats / tokens, 4), "bits_per_byte": round(nats / math.log(2) / size, 4)}

    vocabulary = model.config.vocab_size
    found: dict[str, Any] = {"model": {}, "bigram": {}, "k": {}}
    reports = {name: count(part["report"], vocabulary) for name, part in streams.items()}
    for name, part in streams.items():
        found["model"][name] = scaled(model_nats(model, part["report"], length), name)
        seen, selection = count(part["train"], vocabulary), count(part["selection"], vocabulary)
        losses = {k: bigram_nats(selection, seen, k) for k in SMOOTHING}
        found["k"][name] = best = min(losses, key=losses.__getitem__)
        found["bigram"][name] = {other: scaled(bigram_nats(reports[other], seen, best), other) for other in BUILTIN}
    return found


def table(head: list[str], rows: list[list[Any]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows])


def card(made: dict[str, Any], found: dict[str, Any]) -> str:
    """The model card, from what card.json holds."""
    model, bigram = found["model"], found["bigram"]
    losses = [[name, *model[name].values(), *bigram[name][name].values()] for name in BUILTIN]
    crossed = [
        [f"bigram of {name} (k = {found['k'][name]})", *(bigram[name][other]["bits_per_byte"] for other in BUILTIN)]
        for name in BUILTIN
    ]
    data = [
        [name, split, *(f"{value:,}" if isinstance(value, int) else value for value in part.values())]
        for name, parts in made["data"].items()
        for split, part in parts.items()
    ]
    head = ["corpus", "nats per token", "bits per byte", "bigram: nats per token", "bigram: bits per byte"]
    text = CARD.format(
        **made["shape"],
        **{key: value for key, value in made.items() if key not in ("shape", "data")},
        **{key: made["versions"][key] for key in ("python", "torch")},
        **_kind(made),
        products=made["scale"].get("products", "bfloat16"),  # cards that do not say are from before it could be chosen
        losses=table(head, losses),
        crossed=table(["", *BUILTIN], [*crossed, ["this model", *(model[name]["bits_per_byte"] for name in BUILTIN)]]),
        data=table(["corpus", "split", "documents", "bytes", "tokens", "hash"], data),
    )
    parts = text.split("\n\n")
    return "\n\n".join(part if part[0] in "-#|" else textwrap.fill(part, 120) for part in parts) + "\n"


def _kind(made: dict[str, Any]) -> dict[str, str]:
    """Say what sort of model it is: the embedded one, or a sibling, which is its equal in everything but one."""
    without = made.get("without")
    *most, last = [NAMES[name] for name in made["data"]]
    found = {
        "title": "The embedded language model of skilloc",
        "purpose": "to be dissected by the demo, the documentation and the tests",
        "corpora": f"{', '.join(most)} and {last}",
        "weights": "float32",
        "lacks": "",
        "texts": "",
    }
    if without is None and not made["seed"]:
        return found
    differs = f"that never saw {NAMES[without]}" if without else f"from seed {made['seed']}"
    found |= {
        "title": f"A sibling of the embedded language model of skilloc, {differs}",
        "purpose": "to stand beside the embedded model, whose tokenizer, shape, recipe and number of tokens it has",
        "weights": "float32, kept in bfloat16",
    }
    if without == "english":
        left = ", ".join(
            f"{100 * size / made['data'][name]['train']['bytes']:.2f} % of {NAMES[name]}"
            for name, size in made["english_bytes"].items()
        )
        found["texts"] = "; whole texts, with comments and docstrings, which this model meets here for the first time"
        found["lacks"] = (
            f" Comments and docstrings were cut out of what it read; what still reads as English is {left} (paragraphs "
            "of prose by `skilloc.tasks.corpora.prose`)."
        )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Read, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=DOCUMENTS, default="cpu")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder that train_embedded wrote, at the same scale")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = json.loads((chosen.model / "card.json").read_text())["made"]
    corpora = {name: split_documents(builtin_documents(name)[: DOCUMENTS[chosen.scale]]) for name in BUILTIN}
    without = made.get("without")
    for name, parts in (corpora if without is None else read_corpora(SCALES[chosen.scale], without)).items():
        for split, part in parts.items():
            if documents_digest(part) != made["data"][name][split]["hash"]:
                parser.error(f"{name} {split} differs from what the model was trained with: install its versions")
    model = transformers.AutoModelForCausalLM.from_pretrained(chosen.model).eval()
    streams, sizes = read(transformers.AutoTokenizer.from_pretrained(chosen.model), corpora)
    found = measure(model, streams, sizes, made["length"])
    (chosen.model / "card.json").write_text(json.dumps({"made": made, "losses": found}, indent=1) + "\n")
    (chosen.model / "README.md").write_text(card(made, found))
    print(table(["corpus", *found["model"]["cpp"]], [[name, *found["model"][name].values()] for name in BUILTIN]))


if __name__ == "__main__":
    main()
