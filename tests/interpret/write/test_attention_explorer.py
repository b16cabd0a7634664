"""The explorer in a real browser: pointing at a token colours and names what it looks at, whatever tokens contain."""

import base64
import json
import math
import re
import shutil
import subprocess
from html import unescape

import pytest
import torch

from gpt_lightning.interpret.judge.verdicts import Verdict
from gpt_lightning.interpret.write.attention_explorer import attention_explorer, most_tokens

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKENS = ["the", "␣cat", "</script>", "<script>window.evil = 1</script>", "&amp;", "\"'"]
EVIL = "stripe at '\"><script>window.evil = 1</script>'"
# What a reader does, and what the page then shows.
SESSION = """
<script>
const tokens = Array.from(document.querySelectorAll(".token"));
const heads = Array.from(document.querySelectorAll(".explorer button"));
const box = document.querySelector(".explorer input");
const seen = [];
function look(what) {
  seen.push([what, document.querySelector(".head").textContent, document.querySelector(".answer").textContent,
    tokens.map(t => t.style.backgroundColor), tokens.map(t => t.className)]);
}
const key = (element, name) => element.dispatchEvent(new KeyboardEvent("keydown", { key: name }));
look("start");
heads[0].click(); look("head");
tokens[3].dispatchEvent(new Event("mouseenter")); look("pointed");
box.click(); look("incoming");
box.click();
tokens[0].dispatchEvent(new Event("focus")); look("focused");
key(tokens[0], "ArrowLeft"); look("edge");
key(tokens[0], "ArrowRight"); key(tokens[1], "ArrowRight"); look("token arrows");
key(heads[0], "ArrowUp"); key(heads[0], "ArrowDown"); look("head arrows");
heads[3].click(); look("broken");
const texts = tokens.map(t => t.textContent);
const result = { seen: seen, texts: texts, evil: window.evil === undefined ? "none" : "ran", label: heads[1].title };
document.body.innerHTML = "";
document.body.appendChild(document.createElement("pre")).textContent = JSON.stringify(result);
</script>
"""


def patterns() -> list[torch.Tensor]:
    """Layer 0: head 0 three quarters on the previous token, head 1 on itself. Layer 1: on the first token; broken."""
    T = len(TOKENS)
    previous = 0.75 * torch.eye(T).roll(-1, 1).tril() + 0.25 * torch.eye(T)
    previous[0, 0] = 1
    first = torch.zeros(T, T)
    first[:, 0] = 1
    return [torch.stack([previous, torch.eye(T)]), torch.stack([first, torch.full((T, T), math.nan)])]


def explorer(start: tuple[int, int] = (1, 0)) -> str:
    rows = [
        [("previous-token", "previous-token"), ("stripe", EVIL)],
        [("sink (active)", "a sink"), ("broken", "broken")],
    ]
    verdicts = [[Verdict(kind, label, "why") for kind, label in row] for row in rows]
    return attention_explorer(patterns(), TOKENS, verdicts, start)


def weights_of(fragment: str) -> bytes:
    return base64.b64decode(re.search(r'class="weights">([^<]*)<', fragment)[1], validate=True)


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> dict:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    page = tmp_path_factory.mktemp("explorer") / "page.html"
    page.write_text(
        f'<!doctype html><html><head><meta charset="utf-8"></head><body>{explorer()}{SESSION}</body></html>'
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    return json.loads(unescape(re.search("<pre>(.*)</pre>", dom, re.DOTALL)[1]))


def shown(session: dict, what: str) -> tuple[str, str, list[str], list[str]]:
    return next(tuple(rest) for name, *rest in session["seen"] if name == what)


def test_at_first_it_shows_the_last_token_of_the_head_of_note(session):
    head, answer, colours, classes = shown(session, "start")
    assert head == "layer 1 head 0 · a sink"
    assert answer == "“\"'” (position 5) looks most at “the” (position 0) 1.00."
    assert colours == ["rgb(245, 159, 0)", "", "", "", "", ""]
    assert "current" in classes[5]


def test_pointing_at_a_token_shows_where_it_looks(session):
    assert shown(session, "head")[0] == "layer 0 head 0 · previous-token"
    _, answer, colours, classes = shown(session, "pointed")
    assert answer == (
        f"“{TOKENS[3]}” (position 3) looks most at “</script>” (position 2) 0.75, “{TOKENS[3]}” (position 3) 0.25."
    )
    opacities = [float(colour.rsplit(" ", 1)[1][:-1]) if colour else 0 for colour in colours]
    assert opacities == pytest.approx([0, 0, math.sqrt(0.75), math.sqrt(0.25), 0, 0], abs=0.004)
    assert ["unseen" in name for name in classes] == [False, False, False, False, True, True]
    assert ["current" in name for name in classes] == [False, False, False, True, False, False]


def test_the_other_way_it_shows_who_looks_at_the_token(session):
    _, answer, colours, classes = shown(session, "incoming")
    assert answer == (
        f"“{TOKENS[3]}” (position 3) is looked at most by “&amp;” (position 4) 0.75, “{TOKENS[3]}” (position 3) 0.25."
    )
    assert [bool(colour) for colour in colours] == [False, False, False, True, True, False]
    assert ["unseen" in name for name in classes] == [True, True, True, False, False, False]


def test_it_works_from_the_keyboard(session):
    assert shown(session, "focused")[1].startswith("“the” (position 0) looks most at “the” (position 0) 1.00")
    assert "current" in shown(session, "edge")[3][0]  # nothing is to the left
    assert shown(session, "token arrows")[1].startswith(
        "“</script>” (position 2) looks most at “␣cat” (position 1) 0.75"
    )
    assert shown(session, "head arrows")[0] == "layer 1 head 0 · a sink"


def test_a_head_that_is_not_finite_says_so(session):
    head, answer, colours, _ = shown(session, "broken")
    assert head == "layer 1 head 1 · broken"
    assert answer == "“</script>” (position 2) has no finite weights in this head."
    assert not any(colours)


def test_no_token_or_label_is_markup(session):
    assert session["texts"] == TOKENS
    assert session["label"] == f"layer 0 head 1 · {EVIL}"
    assert session["evil"] == "none"


def test_weights_travel_as_the_root_in_one_byte():
    lower = torch.tril_indices(len(TOKENS), len(TOKENS))
    expected = [head[lower[0], lower[1]].nan_to_num(0).sqrt() * 255 for layer in patterns() for head in layer]
    assert list(weights_of(explorer())) == torch.cat(expected).round().int().tolist()


def test_nothing_is_loaded_from_elsewhere():
    assert not re.search(r"https?:|@import|url\(|<link|<iframe|src=|href=", explorer())


def test_a_large_network_shows_fewer_tokens_and_stays_under_2_megabytes():
    L, H, T = 48, 25, 128
    verdicts = [[Verdict("sink (no-op)", "sink (no-op)", "why")] * H] * L
    fragment = attention_explorer([torch.rand(H, T, T)] * L, ["␣function"] * T, verdicts)
    assert len(fragment.encode()) < 2_000_000
    assert "first 47 of 128 tokens" in fragment
    assert fragment.count('class="token"') == 47
    assert len(weights_of(fragment)) == L * H * 47 * 48 // 2
    assert "Shown are" not in explorer()


def test_as_many_tokens_are_shown_as_fit():
    for heads in (1, 4, 144, 1200, 7919):
        T = most_tokens(heads)
        assert heads * T * (T + 1) // 2 <= 1_400_000 < heads * (T + 1) * (T + 2) // 2
