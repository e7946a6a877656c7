"""What users can import: a change here is a change of the interface, and belongs in the CHANGELOG."""

import importlib
import pkgutil
from pathlib import Path

import intaglio

PUBLIC = {
