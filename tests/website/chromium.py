"""Find a Chromium for the browser tests; as a program, install Debian's where there is none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MACOS = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


def find() -> str | None:
    """Return the path of a browser: `CHROMIUM`, one on PATH, or one that playwright installed."""
    for name in filter(None, (os.environ.get("CHROMIUM"), *NAMES, str(MACOS))):
        if path := shutil.which(name):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        bundled = playwright.chromium.executable_path
    return bundled if Path(bundled).exists() else None


def install() -> None:
    """Install Debian's chromium, as root or through sudo without a password."""
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (as_root and shutil.which("sudo") is None):
        return
    apt = [*as_root, "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        subprocess.run([*apt, *step], check=False, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    if find() is None:
        print("No Chromium found; asking apt-get for Debian's.")
        install()
    browser = find()
    if browser is None:
        sys.exit(
            "The browser tests need Chromium or Chrome, and it could not be installed here.\n"
            "Do one of these and run `make test` again:\n"
            "  - as an administrator: apt-get install chromium\n"
            "  - without: .venv/bin/playwright install chromium\n"
            "  - name the browser that you have: CHROMIUM=/path/to/chrome make test"
        )
    print(f"Browser tests will use {browser}")
