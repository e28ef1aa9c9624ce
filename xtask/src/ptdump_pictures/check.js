// What a page of ptdump's must do in a browser. It runs behind the page's own script, in its scope.
"use strict";
const wrong = [];
const must = (said, what) => { if (!said) wrong.push(what); };
const seek = text => { el("find").value = text; el("find").oninput(); return el("said").textContent; };
const press = key => { document.body.focus(); onkeydown({ key, target: document.body, preventDefault() {} }); };
// The colour of a pixel of the map, as #rrggbb.
const pixel = (x, y) => {
  const scale = window.devicePixelRatio || 1;
  const [r, g, b] = el("map").getContext("2d").getImageData(x * scale, y * scale, 1, 1).data;
  return "#" + [r, g, b].map(n => n.toString(16).padStart(2, "0")).join("");
};
try {
  // It opens on the bands: a row for each, all with a label that ends before the map begins.
  must(banded && bandRows.length > 1, "it does not open on bands");
  const g = el("map").getContext("2d"), width = el("map").clientWidth - LABEL - 4;
  must(width > 300, "no room for the map: " + width);
  bandRows.forEach(([low, high], n) => {
    const label = low + "  " + human(BigInt(high) - BigInt(low) + 1n);
    g.font = "12px monospace";
    must(g.measureText(label).width < LABEL - 8, "the label of band " + n + " runs into the map");
    const inside = blocks.filter(b => b.last >= BigInt(low) && b.first <= BigInt(high));
    must(inside.length > 0, "band " + n + " has no block");
    // The narrowest is painted last: it shows its own colour, at least two pixels wide.
    const narrow = inside.sort((a, z) => Number((a.last - a.first) - (z.last - z.first)))[0];
    const [x0, x1] = pixels(narrow.first, narrow.last, BigInt(low), BigInt(high), width);
    must(x1 - x0 >= 2, "a block is " + (x1 - x0) + " pixels wide");
    const seen = pixel(LABEL + x0 + 1, 4 + n * ROW + 5);
    must(seen === narrow.colour, "band " + n + " shows " + seen + " where " + narrow.colour + " is");
    const hit = under({ offsetX: LABEL + x0 + 1, offsetY: 4 + n * ROW + 5 })[1];
    must(hit === narrow, "a click does not hit the narrowest block of band " + n);
  });
  // Every colour has its key.
  const keys = [...document.querySelectorAll("#keys .key")].map(it => it.style.background);
  must(keys.length >= new Set(blocks.map(b => b.colour)).size, "a colour has no key");
  for (const it of expected.searches) {
    const said = seek(it.text);
    must(said.includes(it.said), "search " + it.text + " says " + JSON.stringify(said));
    if (it.rows !== undefined)
      must(el("rows").rows.length === it.rows, "search " + it.text + " lists " + el("rows").rows.length);
  }
  seek("");
  must(el("rows").rows.length === Math.min(blocks.length, SHOWN), "not all ranges are listed");
  // Keys: the whole space in one row, in and out, a step, back.
  press("0");
  must(!banded && from === blocks[0].first, "0 does not show the whole space");
  const span = to - from;
  press("+");
  must(to - from < span, "+ does not zoom in");
  const left = from;
  press("ArrowRight");
  must(from > left, "the arrow does not move");
  press("-");
  press("b");
  must(banded, "b does not lead back to the bands");
  // A row of the table leads to its block, which is in the middle then, in its colour.
  el("rows").rows[0].onclick();
  must(!banded && at === blocks[0], "a row does not lead to its block");
  const middle = pixel(el("map").clientWidth / 2, 20 + 20);
  must(middle === at.colour, "the block that was asked for shows " + middle);
  press("n");
  must(at === blocks[1], "n does not lead to the next block");
  press("b"); seek(""); at = null; draw();
} catch (error) {
  wrong.push(String(error));
}
const verdict = document.createElement("pre");
verdict.id = "verdict";
verdict.hidden = true;
verdict.textContent = wrong.length ? wrong.join("\n") : "fine";
document.body.append(verdict);
