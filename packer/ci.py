"""What automates builds: from a build file to the documents that a pipeline service runs."""

from __future__ import annotations
