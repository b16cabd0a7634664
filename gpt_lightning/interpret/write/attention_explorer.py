"""The interactive part of the report: choose a head, point at a token, see where it looks.

Weights and texts in, a self-contained HTML fragment out: style, script and data, nothing loaded from elsewhere. A
weight is one byte, √weight · 255, all in base64. Knows nothing of models or of the page around it.

Shapes: L layers, H heads, T tokens.
"""

import base64
from collections.abc import Sequence
from html import escape
from math import isqrt

import torch
from torch import Tensor

from gpt_lightning.interpret.judge.verdicts import KINDS, Verdict

MOST_BYTES = 1_400_000  # of weights; base64 makes them 1.87 MB: up to GPT-2 XL's 1200 heads the fragment is under 2 MB

STYLE = """
.explorer { margin: 1.5rem 0; }
.explorer .side-by-side { display: flex; flex-wrap: wrap; gap: 1.5rem; align-items: flex-start; }
.explorer .heads { max-height: 26rem; max-width: 100%; overflow: auto; }
.explorer .heads table { display: table; margin: 0; font-size: 11px; border-collapse: separate; border-spacing: 1px; }
.explorer .heads th { padding: 0 .25rem; border: 0; color: #5c6773; font-weight: normal; text-align: right;
  vertical-align: middle; }
.explorer .heads td { padding: 0; border: 0; }
.explorer button { width: 20px; height: 20px; padding: 0; border: 0; border-radius: 3px; color: white;
  font: bold 11px/20px system-ui, sans-serif; cursor: pointer; }
.explorer button[aria-pressed=true] { outline: 3px solid #1f2933; outline-offset: -1px; position: relative; }
.explorer .reading { flex: 1 1 24rem; min-width: 0; }
.explorer .head { font-weight: bold; margin: 0 0 .4rem; }
.explorer .text { line-height: 1.9; border: 1px solid #dde2e7; padding: .4rem .6rem; }
.explorer .token { display: inline-block; min-width: .5em; min-height: 1.3em; padding: 0 1px; margin: 0 1px;
  border-radius: 3px; line-height: 1.4; white-space: pre-wrap; overflow-wrap: anywhere; cursor: pointer; }
.explorer .token.unseen { color: #76818d; }
.explorer .token.current { outline: 2px solid #2f6db5; }
.explorer .answer { min-height: 3em; margin: .5rem 0; overflow-wrap: anywhere; }
.explorer .scale { display: inline-block; width: 10rem; height: .8rem; border: 1px solid #dde2e7;
  background: linear-gradient(to right, rgba(245, 159, 0, 0), rgb(245, 159, 0)); }
.explorer .legend { color: #5c6773; font-size: .85rem; }
"""

# A byte b is √weight · 255: the opacity is b / 255, the weight its square.
SCRIPT = """
(function () {
  const root = document.currentScript.closest(".explorer");
  const one = (selector) => root.querySelector(selector);
  const heads = Array.from(root.querySelectorAll("button"));
  const tokens = Array.from(root.querySelectorAll(".token"));
  const bytes = Uint8Array.from(atob(one(".weights").textContent), (c) => c.charCodeAt(0));
  const T = tokens.length, columns = Number(root.dataset.heads), triangle = T * (T + 1) / 2;
  const incoming = one("input");
  let head = Number(root.dataset.start), token = T - 1;

  const byteOf = (query, key) => bytes[head * triangle + query * (query + 1) / 2 + key];
  const name = (i) => "\\u201c" + tokens[i].textContent + "\\u201d (position " + i + ")";

  function draw() {
    const weights = [];  // [byte, token] of those that are not 0
    tokens.forEach(function (span, i) {
      const seen = incoming.checked ? i >= token : i <= token;
      const byte = !seen ? 0 : incoming.checked ? byteOf(i, token) : byteOf(token, i);
      span.classList.toggle("unseen", !seen);
      span.classList.toggle("current", i === token);
      span.tabIndex = i === token ? 0 : -1;
      span.style.backgroundColor = byte ? "rgba(245, 159, 0, " + (byte / 255).toFixed(3) + ")" : "";
      if (byte) weights.push([byte, i]);
    });
    heads.forEach(function (button, i) {
      button.setAttribute("aria-pressed", i === head);
      button.tabIndex = i === head ? 0 : -1;
    });
    weights.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    const top = weights.slice(0, 3).map((x) => name(x[1]) + " " + Math.pow(x[0] / 255, 2).toFixed(2));
    const verb = incoming.checked ? " is looked at most by " : " looks most at ";
    const nothing = incoming.checked ? " is looked at by no token shown here" : " has no finite weights in this head";
    one(".head").textContent = heads[head].title;
    one(".answer").textContent = name(token) + (top.length ? verb + top.join(", ") : nothing) + ".";
  }

  function arrows(elements, steps, choose) {
    elements.forEach(function (element, i) {
      element.addEventListener("keydown", function (event) {
        const to = i + (steps[event.key] || 0);
        if (to === i || to < 0 || to >= elements.length) return;
        event.preventDefault();
        choose(to);
        elements[to].focus();
      });
    });
  }

  function chooseHead(i) { head = i; draw(); }
  function chooseToken(i) { token = i; draw(); }
  heads.forEach((button, i) => button.addEventListener("click", () => chooseHead(i)));
  tokens.forEach(function (span, i) {
    ["mouseenter", "focus", "click"].forEach((kind) => span.addEventListener(kind, () => chooseToken(i)));
  });
  arrows(heads, { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }, chooseHead);
  arrows(tokens, { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }, chooseToken);
  incoming.addEventListener("change", draw);
  heads.forEach((button) => button.setAttribute("aria-label", button.title));
  draw();
  const box = one(".heads"), middle = box.getBoundingClientRect().top + box.clientHeight / 2;
  box.scrollTop += heads[head].getBoundingClientRect().top - middle;
})();
"""

FRAGMENT = """<div class="explorer" data-heads="{columns}" data-start="{start}">
<style>{style}</style>
<p>Choose a head, then point at a token, tap it, or go to it with the arrow keys: the others are coloured by how much it
looks at them.{cut}</p>
<div class="side-by-side">
<div class="heads">
<table><tr><th>layer&nbsp;↓ head&nbsp;→</th>{header}</tr>
{rows}</table>
</div>
<div class="reading">
<p class="head"></p>
<div class="text">{tokens}</div>
<p class="answer" aria-live="polite"></p>
<p><label><input type="checkbox"> who looks at this token (instead of where it looks)</label></p>
<p class="legend">attention weight, √ scale: 0 <span class="scale"></span> 1 (half colour: 0.25);
grey text: tokens that cannot see, or be seen from, the outlined one</p>
</div>
</div>
<script type="text/plain" class="weights">{weights}</script>
<script>{script}</script>
</div>
"""


def attention_explorer(
    patterns: Sequence[Tensor],
    token_labels: Sequence[str],
    verdicts: Sequence[Sequence[Verdict]],
    start: tuple[int, int] = (0, 0),
) -> str:
    """Every head's attention on one text, to explore: an HTML fragment under 2 MB, to be put into a page as it is.

    Args:
        patterns: Weights per layer, (H, T, T) each, from `attention_maps`; weights that are not finite show as 0.
        token_labels: T visible texts of tokens, from `token_label`. For a large network fewer are shown, and the
            fragment says so.
        verdicts: [layer][head], for the colours, letters and names of the heads.
        start: (layer, head) shown first, with its last token chosen.
    """
    L, H = len(patterns), len(patterns[0])
    T = min(len(token_labels), most_tokens(L * H))
    cut = "" if len(token_labels) == T else f" Shown are the first {T} of {len(token_labels)} tokens."
    tokens = "".join(f'<span class="token" role="button">{escape(text)}</span>' for text in token_labels[:T])
    colours = "".join(f".explorer .k{i} {{ background: {kind.colour}; }}\n" for i, kind in enumerate(KINDS.values()))
    return FRAGMENT.format(
        columns=H,
        start=start[0] * H + start[1],
        style=STYLE + colours,
        cut=cut,
        header="".join(f"<th>{head}</th>" for head in range(H)),
        rows="".join(_row(layer, row) for layer, row in enumerate(verdicts)),
        tokens=tokens,
        weights=base64.b64encode(_bytes(patterns, T)).decode("ascii"),
        script=SCRIPT,
    )


def most_tokens(heads: int) -> int:
    """How many tokens fit with so many heads: the largest T with heads · T(T + 1)/2 ≤ MOST_BYTES."""
    return (isqrt(8 * (MOST_BYTES // heads) + 1) - 1) // 2


def _bytes(patterns: Sequence[Tensor], T: int) -> bytes:
    """√weight · 255, rounded, of the patterns' lower triangles: layer by layer, head by head, row by row."""
    rows, columns = torch.tril_indices(T, T)
    weights = torch.cat([pattern_HTT[:, rows, columns].detach().float().cpu().flatten() for pattern_HTT in patterns])
    return (weights.nan_to_num(0).clamp(0, 1).sqrt() * 255).round().to(torch.uint8).numpy().tobytes()


def _row(layer: int, verdicts: Sequence[Verdict]) -> str:
    cells = []
    for head, verdict in enumerate(verdicts):
        title = escape(f"layer {layer} head {head} · {verdict.label}")
        kind = list(KINDS).index(verdict.kind)
        cells.append(f'<td><button class="k{kind}" title="{title}">{KINDS[verdict.kind].letter}</button></td>')
    return f"<tr><th>{layer}</th>{''.join(cells)}</tr>\n"
