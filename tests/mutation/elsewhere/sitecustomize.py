# SPDX-License-Identifier: Apache-2.0
"""In a process that a test has started: imports a changed module, if one is to be tried.

Knows an environment variable, `PERTINAX_CHANGED=<module>=<file>`. Knows nothing of changes. Python
imports this by its name as it starts.
"""

import importlib.abc
import importlib.util
import os
import sys

NAME, _, FILE = os.environ.get("PERTINAX_CHANGED", "").partition("=")


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_file_location(name, FILE) if name == NAME else None


if NAME:
    sys.meta_path.insert(0, Finder())
