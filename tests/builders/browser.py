"""Headless Chromium for the tests of pages: what it complains of, what it asks for, what it shows.

Needs Debian's chromium and chromium-driver (`apt-get install chromium chromium-driver`).
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync "
    "--disable-dev-shm-usage --force-device-scale-factor=1 --window-size=1600,1000"
).split()
_PATIENCE_S = 60.0  # a busy machine, not a slow page: nothing is asserted on it


class Browser:
    """One window. `open` waits until the page says that its charts are drawn."""

    def __init__(self, driver: Chrome) -> None:
        self._driver = driver

    def open(self, page: Path, *, width: int = 1600, dark: bool = False) -> None:
        self._driver.get_log("browser")
        self._driver.get_log("performance")
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._command("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self._command("Performance.enable", timeDomain="threadTicks")
        self._driver.get(page.resolve().as_uri())
        self.until("document.documentElement.dataset.drawn === 'true'")

    def until(self, condition: str) -> None:
        """Waits for a JavaScript expression to hold."""
        deadline_s = time.monotonic() + _PATIENCE_S
        while not self.js(f"return Boolean({condition})"):
            assert time.monotonic() < deadline_s, f"never came true: {condition}; {self.errors()}"
            time.sleep(0.05)

    def js(self, script: str, *arguments: Any) -> Any:
        return self._driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.js("return document.querySelector(arguments[0]).innerText", selector))

    def choose(self, select_name: str, shown: str) -> None:
        """Picks an option of a select by its text, as a user does."""
        self.js(
            "const s = document.querySelector(`select[name=${arguments[0]}]`);"
            "const at = [...s.options].findIndex(o => o.text === arguments[1]);"
            "if (at < 0) throw new Error('no option ' + arguments[1]);"
            "s.selectedIndex = at; s.dispatchEvent(new Event('change'))",
            select_name,
            shown,
        )

    def move_to(self, x: float, y: float, *, click: bool = False) -> None:
        actions = ActionChains(self._driver, duration=0)
        actions.w3c_actions.pointer_action.move_to_location(round(x), round(y))
        if click:
            actions.w3c_actions.pointer_action.click()
        actions.perform()

    def press(self, *keys: str) -> None:
        for key in keys:
            ActionChains(self._driver, duration=0).send_keys(key).perform()

    def download(self, selector: str, folder: Path) -> Path:
        """Clicks what saves a file, and waits for the file."""
        self._command("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.js("document.querySelector(arguments[0]).click()", selector)
        deadline_s = time.monotonic() + _PATIENCE_S
        while not (found := [p for p in folder.iterdir() if _is_whole(p)]):
            assert time.monotonic() < deadline_s, f"nothing was saved; {self.errors()}"
            time.sleep(0.05)
        return found[0]

    def errors(self) -> list[str]:
        """What the console complains of since the page was opened, policy violations included."""
        log = self._driver.get_log("browser")
        return [entry["message"] for entry in log if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """What the page asked for since it was opened, itself and what it carries left out."""
        events = [
            json.loads(entry["message"])["message"] for entry in self._driver.get_log("performance")
        ]
        page = self._driver.current_url
        urls = [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["documentURL"].partition("#")[0] == page.partition("#")[0]
        ]
        assert page in urls, "the log of requests does not even hold the page's own"
        urls.remove(page)
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    def main_thread_s(self) -> float:
        """Processor time (not the clock's) of the page's main thread since it was opened."""
        metrics = self._command("Performance.getMetrics")["metrics"]
        return float({each["name"]: each["value"] for each in metrics}["TaskDuration"])

    def screenshot(self, path: Path) -> None:
        self._driver.save_screenshot(str(path))

    def _command(self, name: str, **parameters: Any) -> Any:
        return self._driver.execute_cdp_cmd(name, parameters)


def _is_whole(path: Path) -> bool:
    """Chromium writes beside an empty file of the final name, which it replaces at the end."""
    return path.suffix != ".crdownload" and path.stat().st_size > 0


@contextmanager
def launched(profile: Path) -> Iterator[Browser]:
    """A browser with a new profile in an empty folder; skips the test where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    chromedriver = shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("Chromium is missing: apt-get install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(chromedriver))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
