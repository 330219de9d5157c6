"""Self-contained HTML: the interactive circuit, and the report of everything that was measured in a folder.

A page is one file. It needs no server, makes no request, and can be read without script.
"""

from skilloc.pages.circuit import circuit_page
from skilloc.pages.document import write
from skilloc.pages.examples import top_examples
from skilloc.pages.report import report_page

__all__ = ["circuit_page", "report_page", "top_examples", "write"]
