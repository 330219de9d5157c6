"""Source code without the English in it: docstrings and comments taken out."""

import ast
import io
import re
import tokenize

from skilloc.tasks.text import Document

CPP = re.compile(r'("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.DOTALL)
GAPS = re.compile(r"\n(?:[ \t]*\n){2,}")


def bare(document: Document) -> Document | None:
    """Return a source file without docstrings and comments; None where that leaves nothing, or it cannot be read."""
    python = document.origin.startswith("python:")
    try:
        text = bare_python(document.text) if python else bare_cpp(document.text)
    except (SyntaxError, ValueError, tokenize.TokenError):
        return None
    return Document(text, document.origin) if text.strip() else None


def bare_cpp(text: str) -> str:
    """Return C++ without comments; what looks like one inside a string stays."""
    return _tidy(CPP.sub(lambda found: found.group(1) or "", text))


def bare_python(text: str) -> str:
    """Return Python without comments and docstrings; a body that held nothing else gets a `pass`.

    Raises:
        SyntaxError: if it is no Python.
        tokenize.TokenError: likewise.
    """
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    cuts = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                assert first.end_lineno is not None
                assert first.end_col_offset is not None
                begin = starts[first.lineno - 1] + _characters(lines[first.lineno - 1], first.col_offset)
                end = starts[first.end_lineno - 1] + _characters(lines[first.end_lineno - 1], first.end_col_offset)
                alone = len(node.body) == 1 and not isinstance(node, ast.Module)
                needed = alone or text[end:].lstrip(" \t").startswith(";")
                cuts.append((begin, end, "pass" if needed else ""))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            begin = starts[token.start[0] - 1] + token.start[1]
            cuts.append((begin, begin + len(token.string), ""))
    for begin, end, instead in sorted(cuts, reverse=True):
        text = text[:begin] + instead + text[end:]
    return _tidy(text)


def _characters(line: str, offset: int) -> int:
    """Return how many characters a number of bytes of UTF-8 are."""
    return len(line.encode()[:offset].decode())


def _tidy(text: str) -> str:
    return GAPS.sub("\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).lstrip("\n")
