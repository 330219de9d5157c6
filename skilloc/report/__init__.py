"""The report: each kind of result as sections, made once, and three renderers: terminal, Markdown, HTML.

`section` says what a section is; `effects`, `locality`, `removal`, `positions`, `calibration`, `relearning`, `pruning`,
`circuits` and `comparison` make those of their results; `findings` puts together what a folder holds, and `page` writes
it as one self-contained HTML file, which needs no server, makes no request, and can be read without script.
"""

from skilloc.report.document import write
from skilloc.report.page import report_page, write_report
from skilloc.report.panel import circuit_page

__all__ = ["circuit_page", "report_page", "write", "write_report"]
