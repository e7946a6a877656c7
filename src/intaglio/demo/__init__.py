"""The demo: two real networks on real data, float32 against int8.

Needs the extra `demo`. May import everything below it; of the rest of the package only the command line
and the tests use it.
"""

from intaglio.demo.demonstration import run_demo
from intaglio.demo.results import DemoReport

__all__ = ["DemoReport", "run_demo"]
