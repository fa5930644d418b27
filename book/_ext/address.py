"""Where this course lives: one address, in `_config.yml`, that follows a fork.

The launch buttons take the address of the checkout that the website is built from. A notebook
opened on Colab cannot know where it came from, so its setup cell holds the address; run

    make address                                        # the address of the remote "origin"
    make address REPOSITORY_URL=https://github.com/you/your-fork

once in a fork, to write its address into every file that names it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Only GitHub: Colab opens notebooks from nowhere else.
REMOTE = re.compile(
    r"^(?:https?://(?:[^@/]+@)?|(?:ssh://)?git@)github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$"
)
CONFIGURED = re.compile(r"^  url: *https://github\.com/(\S+)", re.MULTILINE)


def project(remote: str) -> str | None:
    """Return "owner/name" of a remote on GitHub, None for any other.

    Examples
    --------
    >>> project("git@github.com:you/your-fork.git")
    'you/your-fork'
    >>> project("/srv/git/course.git") is None
    True
    """
    found = REMOTE.match(remote.strip())
    return found[1] if found else None


def configured(root: Path = ROOT) -> str:
    """Return the "owner/name" that `_config.yml` holds."""
    return CONFIGURED.search((root / "_config.yml").read_text(encoding="utf-8"))[1]


def of_checkout(root: Path = ROOT) -> str | None:
    """Return the "owner/name" that `REPOSITORY_URL` or the git remote "origin" gives, if any."""
    asked = os.environ.get("REPOSITORY_URL", "")
    if not asked:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        try:
            asked = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        except OSError:  # no git on this machine
            return None
    return project(asked)


def files(root: Path = ROOT) -> list[Path]:
    """Return the files that may name the address."""
    names = ["_config.yml", "README.md", "CONTRIBUTING.md", "CITATION.cff"]
    chapters = [*(root / "book").glob("*.ipynb"), *(root / "book").glob("*.md")]
    return [root / name for name in names] + sorted(chapters)


def stamp(new: str, root: Path = ROOT) -> list[Path]:
    """Replace the course's "owner/name" by `new` in every file; return the files that changed."""
    old, changed = configured(root), []
    for path in files(root):
        text = path.read_text(encoding="utf-8")
        if old in text and old != new:
            path.write_text(text.replace(old, new), encoding="utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    asked_for = project(sys.argv[1]) if len(sys.argv) > 1 else of_checkout()
    if asked_for is None:
        sys.exit(
            "No address to write: expected one like https://github.com/you/your-fork, given as "
            'REPOSITORY_URL or by the git remote "origin".'
        )
    for file in stamp(asked_for):
        print(f"{asked_for} -> {file.relative_to(ROOT)}")
