"""What browser journeys share: a Chromium, a signed-in visitor who notes every complaint, hostile words, axe.

No page may log an error, break the content policy or open a dialog of the browser.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from understudy.sdk.servers import read_server

HERE = Path(__file__).parent
AXE = HERE / "vendor" / "axe-4.14.1.min.js"
PATIENCE_S = 120.0  # a machine may be many times slower than it should be


class Visitor:
    """A page, and everything it complained about."""

    def __init__(self, page: Any, server: Any) -> None:
        self.page, self.server = page, server
        self.complaints: list[str] = []
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("console", lambda said: said.type == "error" and self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dialog)
        page.add_init_script(
            "addEventListener('securitypolicyviolation',"
            " e => console.error('CSP', e.violatedDirective, e.sample))"
        )

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def open(self, place: str) -> Any:
        self.page.goto(f"{self.server.url}/console/{place}")
        self.page.locator("html[data-drawn]").wait_for(state="attached")
        return self.page

    def sign_in(self) -> None:
        self.open("")
        facts = read_server(self.server.data_dir)
        self.page.get_by_label("Access key ID").fill(facts.access_key_id)
        self.page.get_by_label("Secret access key").fill(facts.secret_access_key)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Overview").wait_for()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    launch = sys.modules["console_stage"].launch
    with sync_playwright() as started:
        browser = launch(started)
        if browser is None:
            pytest.skip("needs a Chromium: run `make browser`, or install one as `chromium`")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def signed_in(chromium: Any, server: Any) -> Any:
    """Cookies of a signed-in browser: sign-in is a story of its own."""
    context = chromium.new_context()
    visitor = Visitor(context.new_page(), server)
    visitor.sign_in()
    state = context.storage_state()
    context.close()
    assert not visitor.complaints, visitor.complaints
    return state


@pytest.fixture
def visit(chromium: Any, server: Any, signed_in: Any) -> Iterator[Visitor]:
    context = chromium.new_context(storage_state=signed_in, viewport={"width": 1280, "height": 900})
    visitor = Visitor(context.new_page(), server)
    yield visitor
    context.close()
    assert visitor.complaints == [], visitor.complaints


def until(holds: Callable[[], Any]) -> Any:
    """Poll with a deadline."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline_s, "it did not come to hold"
        time.sleep(0.1)
    return found


def run_boto3(server: Any, text: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", text], env=server.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr + text


def run_shell(server: Any, text: str) -> str:
    path = f"{Path(sys.executable).parent}:{server.environment['PATH']}"
    environment = {**server.environment, "PATH": path, "AWS_PAGER": ""}
    done = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + text
    return done.stdout


def snippet_of(scope: Any, kind: str) -> str:
    """The call as the page shows it."""
    scope.get_by_role("button", name=kind, exact=True).last.click()
    return str(scope.locator(".snippet pre:visible").last.inner_text())


SEEDS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "'><iframe srcdoc='<script>parent.hit=1</script>'>",
    "javascript:window.hit=1",
    "{{constructor.constructor('window.hit=1')()}}",
    "${window.hit=1}",
    "`;window.hit=1;`",
    "</textarea><script>window.hit=1</script>",
    "</title><script>window.hit=1</script>",
    "<a href=javascript:window.hit=1>click</a>",
    "<style>*{display:none}</style>",
    "<base href=https://evil.example/>",
    "<meta http-equiv=refresh content=0;url=https://evil.example/>",
    "\u202eevil\u202c \u2028 \u2029 \ufeff",
    "__proto__",
    "constructor",
    '=HYPERLINK("https://evil.example")',
    "<!--><script>window.hit=1</script>-->",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.hit=1>",
]
HOSTILE = [f"{seed}{'' if turn == 0 else f' {turn}'}" for turn in range(15) for seed in SEEDS]


def unharmed(visit: Visitor) -> None:
    assert visit.page.evaluate("window.hit") is None
    assert (
        visit.page.evaluate(
            "document.querySelectorAll('main iframe, main script, main style, main base, main img').length"
        )
        == 0
    )
    assert "evil" not in visit.page.url


def faults_of_pages(
    chromium: Any, server: Any, signed_in: Any, places: list[str], scheme: str, width: int
) -> list[Any]:
    """Look at pages with axe-core: serious findings, and pages wider than the window."""
    context = chromium.new_context(
        storage_state=signed_in,
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    visitor = Visitor(context.new_page(), server)
    found: list[Any] = []
    for place in places:
        page = visitor.open(place)
        if place.startswith("endpoints") and "/update" not in place:
            page.locator("figure").first.scroll_into_view_if_needed()
            page.locator("figure canvas").first.wait_for()
        page.evaluate(AXE.read_text(encoding="utf-8"))
        # In the dark only colours differ.
        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
        only = {
            "runOnly": rules if scheme == "light" else {"type": "rule", "values": ["color-contrast"]},
            "resultTypes": ["violations"],  # of all else one node per rule is told
        }
        told = page.evaluate("only => axe.run(document, only)", only)
        for one in told["violations"]:
            if one["impact"] in ("serious", "critical"):
                nodes = [(each["html"][:160], each["failureSummary"][:160]) for each in one["nodes"][:3]]
                found.append((place, one["id"], nodes))
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            found.append((place, f"{wide} px too wide"))
    context.close()
    return [*found, *visitor.complaints]
