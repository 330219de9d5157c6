import csv
import gzip
import json
import logging
import random

import pytest

from skilloc.tasks.corpora import documents
from skilloc.tasks.reading import read_rows, split_source
from skilloc.tasks.text import split_documents, text_subtask

WORDS = "alpha beta gamma delta river stone cloud water light green house table chair".split()  # noqa: SIM905


def document(seed, n=30):
    generator = random.Random(seed)
    return " ".join(generator.choice(WORDS) for _ in range(n)).capitalize() + "."


DOCS = [document(i) for i in range(60)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Sixty documents, in every form that people have."""
    folder = tmp_path_factory.mktemp("readers")
    rows = [json.dumps({"text": doc}) for doc in DOCS]
    plain = ("\n".join(rows) + "\n").encode()
    for name in ("plain.jsonl", "ndjson.ndjson", "UPPER.JSONL", "sha#p.jsonl"):
        (folder / name).write_bytes(plain)
    (folder / "array.json").write_text(json.dumps([{"text": doc} for doc in DOCS]))
    (folder / "gz.jsonl.gz").write_bytes(gzip.compress(plain))
    (folder / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + plain)
    (folder / "table.csv").write_text("id,text\n" + "".join(f'{i},"{doc}"\n' for i, doc in enumerate(DOCS)))
    (folder / "table.csv.gz").write_bytes(gzip.compress((folder / "table.csv").read_bytes()))
    (folder / "bom.csv").write_bytes(
        b"\xef\xbb\xbf" + (folder / "table.csv").read_bytes().replace(b"id,text", b"text,id", 0)
    )
    (folder / "table.tsv").write_text("id\ttext\n" + "".join(f"{i}\t{doc}\n" for i, doc in enumerate(DOCS)))
    nulls = [json.dumps({"text": None if i % 10 == 3 else doc}) for i, doc in enumerate(DOCS)]
    (folder / "nulls.jsonl").write_text("\n".join(nulls) + "\n")
    missing = [json.dumps({"id": i} if i % 10 == 3 else {"text": doc, "id": i}) for i, doc in enumerate(DOCS)]
    (folder / "missing.jsonl").write_text("\n".join(missing) + "\n")
    (folder / "dotted.jsonl").write_text("\n".join(json.dumps({"doc": {"text": doc}}) for doc in DOCS) + "\n")
    (folder / "literal.jsonl").write_text("\n".join(json.dumps({"doc.text": doc, "doc": 1}) for doc in DOCS) + "\n")
    (folder / "chat.jsonl").write_text("\n".join(json.dumps({"turns": ["", {"said": doc}]}) for doc in DOCS) + "\n")
    for name in ("bom_texts", "texts"):
        (folder / name).mkdir()
        for i, doc in enumerate(DOCS):
            start = b"\xef\xbb\xbf" if name == "bom_texts" else b""
            (folder / name / f"d{i:02d}.txt").write_bytes(start + doc.encode())
        (folder / name / ".hidden").write_bytes(b"\xff")
    (folder / "br[1]").mkdir()
    (folder / "br[1]" / "plain.jsonl").write_bytes(plain)
    for part in range(3):
        (folder / f"shard-{part}.jsonl").write_text("\n".join(rows[20 * part : 20 * part + 20]) + "\n")
    parquet(folder / "table.parquet", {"id": list(range(60)), "text": DOCS, "doc": [{"text": doc} for doc in DOCS]})
    return folder


def parquet(path, columns):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def texts(source):
    return [one.text for one in documents(str(source))]


WHOLE = (
    *("plain.jsonl", "ndjson.ndjson", "UPPER.JSONL", "gz.jsonl.gz", "bom.jsonl", "array.json", "shard-*.jsonl"),
    *("table.csv#text", "table.csv.gz", "bom.csv", "table.tsv#text", "br[1]/plain.jsonl", "br[1]"),
    *("dotted.jsonl#doc.text", "literal.jsonl#doc.text", "chat.jsonl#turns.1.said", "sha#p.jsonl", "sha#p.jsonl#text"),
    *("table.parquet", "table.parquet#doc.text", "texts/*.txt", "bom_texts/*.txt", "texts", "bom_texts"),
)


@pytest.mark.parametrize("source", WHOLE)
def test_every_form_gives_the_same_sixty_documents(made, source):
    assert texts(made / source) == DOCS


def test_the_form_does_not_change_the_splits(made):
    splits = [split_documents(documents(str(made / source))) for source in ("texts/*.txt", "bom_texts", "plain.jsonl")]
    contents = [{split: [one.text for one in part] for split, part in found.items()} for found in splits]
    assert contents[0] == contents[1] == contents[2]


@pytest.mark.parametrize("name", ["nulls.jsonl", "missing.jsonl"])
def test_rows_without_the_field_are_skipped_counted_said_and_recorded(made, name, caplog):
    with caplog.at_level(logging.WARNING):
        found = documents(str(made / name))
    assert [one.text for one in found] == [doc for i, doc in enumerate(DOCS) if i % 10 != 3]
    assert found.skipped == 6
    assert f'skipped 6 of 60 rows of "{made / name}"' in caplog.text
    assert text_subtask("t", found, lambda texts: [[1] for _ in texts]).made["skipped"] == 6
    assert "skipped" not in text_subtask("t", documents(str(made / "plain.jsonl")), lambda texts: []).made


def test_the_home_folder(made, monkeypatch):
    monkeypatch.setenv("HOME", str(made))
    assert texts("~/plain.jsonl") == texts("~/shard-*.jsonl") == texts("~/dotted.jsonl#doc.text") == DOCS


def test_a_path_that_exists_is_no_pattern(tmp_path):
    for name in ("data[ab].jsonl", "dataa.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": f"from {name}"}))
    assert texts(tmp_path / "data[ab].jsonl") == ["from data[ab].jsonl"]
    assert split_source(f"{tmp_path}/data[ab].jsonl#a.b") == (f"{tmp_path}/data[ab].jsonl", "a.b")


def test_another_field_that_changes_its_type_late_does_not_matter(tmp_path):
    with (tmp_path / "late.jsonl").open("w") as file:
        for i in range(9000):
            file.write(json.dumps({"text": document(i, 60), "label": None if i < 8900 else "late"}) + "\n")
    assert len(texts(tmp_path / "late.jsonl")) == 9000


def test_a_sorted_file_is_read_whole(tmp_path):
    with (tmp_path / "sorted.jsonl").open("w") as file:
        for i in range(25_000):
            topic = "first" if i < 20_000 else "second"
            file.write(json.dumps({"text": f"{topic} topic, row {i}: {document(i, 8)}"}) + "\n")
    found = documents(str(tmp_path / "sorted.jsonl"))
    assert (len(found), found.skipped, found.sampled) == (25_000, 0, False)
    assert sum(one.text.startswith("second") for one in found) == 5_000


def test_files_and_globs(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.rs", "a.rs", "sub/c.rs", "README"):
        (tmp_path / name).write_text(f"text of {name}")
    assert texts(f"{tmp_path}/**/*.rs") == ["text of a.rs", "text of b.rs", "text of sub/c.rs"]
    assert texts(tmp_path / "README") == ["text of README"]
    assert len(texts(tmp_path)) == 4


def test_a_suffix_that_is_not_known_is_refused(tmp_path):
    (tmp_path / "data.jsonlines").write_text('{"text": "one"}\n')
    for source in (tmp_path / "data.jsonlines", f"{tmp_path}/*", tmp_path):
        with pytest.raises(ValueError, match=r'ends in "\.jsonlines".*rename it to end in \.txt'):
            texts(source)
    (tmp_path / "data.jsonlines").rename(tmp_path / "data.txt")
    assert texts(tmp_path / "data.txt") == ['{"text": "one"}\n']


def test_tables_and_texts_are_not_mixed(tmp_path):
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "data.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match="holds both tables and texts; narrow it with a glob"):
        texts(tmp_path)
    assert texts(f"{tmp_path}/*.jsonl") == ["one"]


def test_a_folder_stands_for_the_files_that_can_be_read(tmp_path, caplog):
    (tmp_path / "a.pid").write_text("7")
    with pytest.raises(ValueError, match=r'a.pid" ends in ".pid", which is neither'):
        texts(tmp_path)
    (tmp_path / "b.txt").write_text("one")
    assert texts(tmp_path) == ["one"]
    assert f'left out 1 of 2 files of "{tmp_path}", of no known kind, such as "{tmp_path}/a.pid"' in caplog.text


LATIN = "caf\xe9".encode("latin-1")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "one"}\n{"text": "' + LATIN + b'"}\n', r"row 1 of .*0xe9.*iconv -f WINDOWS-1252"),
        ("a.csv", b"text\none\ntwo\n" + LATIN + b"\n", r"row 2 of .*0xe9.*iconv"),
        ("a.txt", LATIN, r"not UTF-8 text .*convert the file"),
        ("b.csv", "text\none\n".encode("utf-16"), r"in UTF-16, from row 0 on; .*iconv -f UTF-16"),
        ("a.json", b'{"text": "one"}\n{"text": ', r"row 1 of .*check that it is whole"),
        ("c.csv", b"a,text\n1,one\n2,two, three\n", r"row 1 of .* has 3 fields but its header 2; quote fields"),
        ("i.csv", b"text,n,text\none,1,two\n", r'i.csv" has 2 columns "text"; give each its own name'),
        ("d.csv", b'text\n"one\ntwo\n', r"near line 3 .*mend its quotes"),
        ("a.jsonl.gz", b"nothing packed", r"cannot unpack .*check that it is whole"),
        ("a.parquet", b"no table", r"cannot read .*check that it is whole"),
        ("e.jsonl", b'{"body": "one", "n": 1}\n', r'none of the 1 rows .* "text"; their fields are body, n: pass'),
        ("f.jsonl", b"", r'f.jsonl" has no rows; pass a file that has some'),
        ("g.jsonl", b'["one"]\n', r"none of the 1 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said):
        texts(tmp_path / name)


def test_columns_without_a_name_may_be_several(tmp_path):
    (tmp_path / "a.csv").write_text(",text,\n0,one,\n1,two,\n")
    assert texts(tmp_path / "a.csv") == ["one", "two"]


def test_a_source_without_a_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("one")
    for source in ("", "#text"):
        with pytest.raises(ValueError, match="a source has no name; pass a file"):
            documents(source)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="matches no file; quote it"):
        texts(f"{tmp_path}/*.rs")
    with pytest.raises(FileNotFoundError, match="one of python, cpp, english"):
        texts("pyton")
    with pytest.raises(FileNotFoundError, match="hub:owner/name"):
        texts(f"{tmp_path}/absent.parquet#text")
    with pytest.raises(ValueError, match="holds no file"):
        texts(tmp_path)


def test_line_ends_inside_and_between_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "one\u2028two\x85three"}\r\n\r\n{"text": "four"}'.encode())
    assert texts(tmp_path / "a.jsonl") == ["one\u2028two\x85three", "four"]
    (tmp_path / "a.csv").write_bytes(b'text,n\r\n"one\r\ntwo, ""three""",1\r\n' + b"x" * 200_000 + b",2\r\n")
    assert texts(tmp_path / "a.csv") == ['one\r\ntwo, "three"', "x" * 200_000]
    (tmp_path / "whole.json").write_text(json.dumps({"text": "one"}, indent=2))
    assert texts(tmp_path / "whole.json") == ["one"]
    (tmp_path / "half.jsonl").write_text('{"text": "\\ud83d"}\n{"text": "whole"}\n{"text": " "}\n')
    assert (texts(tmp_path / "half.jsonl"), documents(str(tmp_path / "half.jsonl")).skipped) == (["whole"], 2)


def test_several_fields_of_any_type(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"q": "one", "options": ["a", "b"], "right": 1}\n{"q": "two"}\n')
    found = read_rows(str(tmp_path / "a.jsonl"), ["q", "options", "right"])
    assert [row.values for row in found.rows] == [("one", ["a", "b"], 1), ("two", None, None)]
    assert found.fields == ("q", "options", "right")
    assert found.rows[1].origin == f"{tmp_path}/a.jsonl:1"


def test_of_parquet_only_the_columns_that_are_asked_for_are_read(tmp_path, monkeypatch):
    import pyarrow.parquet

    parquet(tmp_path / "a.parquet", {"text": ["one"], "image": [b"0" * 1000], "doc": [{"text": "two"}]})
    asked = []
    before = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "iter_batches",
        lambda self, columns: asked.append(columns) or before(self, columns=columns),
    )
    assert (texts(tmp_path / "a.parquet"), texts(tmp_path / "a.parquet#doc.text")) == (["one"], ["two"])
    assert asked == [["text"], ["doc"]]


class Hub:
    """A dataset of the hub with more rows than one reads."""

    column_names = ("text", "image")

    def __init__(self, chosen=None):
        self.chosen = chosen

    def select_columns(self, names):
        return Hub(names)

    def __iter__(self):
        assert self.chosen == ["text"]
        return ({"text": f"row {i}"} for i in range(10**9))


def test_of_the_hub_a_sample_is_said_and_recorded(monkeypatch, caplog):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split, streaming: Hub())
    with caplog.at_level(logging.WARNING):
        found = documents("hub:somebody/something")
    assert (len(found), found.sampled) == (20_000, True)
    assert "more rows than the 20000 that were read" in caplog.text
    assert text_subtask("t", found, lambda texts: []).made["sampled"] == "the first 20,000 rows"


def test_a_dataset_that_is_not_there(monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    with pytest.raises(ValueError, match="check the name and the network"):
        texts("hub:nobody/nothing-of-this-name")


def test_the_field_limit_of_the_process_is_left_alone(made):
    before = csv.field_size_limit()
    texts(made / "table.csv")
    assert csv.field_size_limit() == before
