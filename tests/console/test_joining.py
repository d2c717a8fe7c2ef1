"""Modules as one script: what is understood, what is refused, and that each runs when it is imported."""

from __future__ import annotations

import subprocess
from pathlib import Path

import playwright
import pytest

from understudy.console.files import FOLDER
from understudy.console.joining import joined

NODE = Path(playwright.__file__).parent / "driver/node"  # Playwright brings it along
MAIN = "js/main.js"
SOURCES = {
    MAIN: """\
import { add as plus, order } from "./sums.js";

const page = await import("./pages/one.js");
order.push("main");
console.log(JSON.stringify([plus(1, 2), page.page(), order, (await import("./pages/one.js")) === page]));
""",
    "js/sums.js": """\
export const order = ["sums"];
export function add(one, other) {
  return one + other;
}
""",
    "js/pages/one.js": """\
import Plot from "../../vendor/plot.js";
import { add, order } from "../sums.js";
import { Shape } from "../shapes.js";

order.push("one");
export function page() {
  return [Plot.name, add(2, 2), new Shape().corners];
}
export { add };
""",
    "js/shapes.js": """\
import { order } from "./sums.js";
order.push("shapes");
export class Shape {
  corners = 3;
}
export async function later() {}
""",
}


def packed(**more: str) -> dict[str, bytes]:
    return {name: text.encode() for name, text in (SOURCES | more).items()}


def test_joined_modules_do_what_they_did(tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor/plot.js").write_text('export default { name: "plot" };')
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for name, text in SOURCES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def told() -> str:
        run = [str(NODE), str(tmp_path / MAIN)]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout

    apart = told()
    (tmp_path / MAIN).write_bytes(joined(packed(), MAIN).script)
    assert apart == told() == '[3,["plot",4,3],["sums","shapes","one","main"],true]\n'


def test_what_a_page_needs_of_others_is_found_through_its_imports() -> None:
    more = {"js/pages/two.js": 'import { page } from "./one.js";\nexport const two = page;\n'}
    loads = joined(packed(**more), MAIN).loads
    assert loads["js/pages/two.js"] == loads["js/pages/one.js"] == ("vendor/plot.js",)
    assert loads["js/sums.js"] == loads[MAIN] == ()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("js/a.js", "import * as all from './sums.js';\n", "not known how to join"),
        ("js/a.js", "export default 3;\n", "not known how to join"),
        ("js/a.js", "export let changing = 1;\n", "not known how to join"),
        ("js/a.js", 'import { b } from "./b.js";\n', "js/a.js imports js/b.js, which is not there"),
        ("js/shapes.js", 'import { page } from "./pages/one.js";\n', "in a circle"),
        (MAIN, 'import Plot from "../vendor/plot.js";\n', "at once; only pages may"),
    ],
)
def test_what_is_not_understood_is_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        joined(packed(**{name: text}), MAIN)


def test_the_consoles_own_modules_are_understood() -> None:
    sources = {
        file.relative_to(FOLDER).as_posix(): file.read_bytes() for file in (FOLDER / "js").rglob("*.js")
    }
    script = joined(sources, MAIN).script.decode()
    assert script.startswith("// All of the console's modules")
    for name in sources:
        assert name == MAIN or f"\n'{name}': () => {{" in script
