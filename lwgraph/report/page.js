"use strict";
// Sorts tables, shows tooltips and zooms pictures. Without it the page is complete, and says the same in titles.

function sorter(table, head, column) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => [row, key(row.cells[column], head.dataset.sort)]);
    rows.sort(([, a], [, b]) => (a === null) - (b === null) || (a === null ? 0 : (down ? -1 : 1) * order(a, b)));
    body.append(...rows.map(([row]) => row)); // rows without a value stay last, whichever way it is sorted
  });
}

function key(cell, kind) {
  if (kind !== "number") return cell.textContent.trim() || null;
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function order(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function tooltips() {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  document.body.append(tip);
  for (const title of document.querySelectorAll("svg title")) told(title.parentNode, title.textContent, title);
  for (const each of document.querySelectorAll("[title]")) told(each, each.title, null);
  function told(owner, text, title) {
    owner.dataset.tip = text; // in place of the browser's own, which a finger cannot reach
    if (title) title.remove();
    else owner.removeAttribute("title");
    owner.setAttribute("aria-label", text);
  }
  function show(event) {
    const owner = event.target.closest("[data-tip]");
    tip.hidden = !owner;
    if (!owner) return;
    tip.textContent = owner.dataset.tip;
    const box = owner.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const above = box.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, Math.min(room, box.left + box.width / 2 - tip.offsetWidth / 2))}px`;
    tip.style.top = `${above > 0 ? above : box.bottom + 6}px`;
  }
  for (const kind of ["pointerover", "click", "focusin"]) document.addEventListener(kind, show);
  document.addEventListener("scroll", () => (tip.hidden = true), true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && (tip.hidden = true));
}

function zoom(box) {
  const picture = box.querySelector("svg");
  const bar = document.createElement("p");
  let factor = 1;
  bar.className = "zoom";
  for (const [label, text, next] of [
    ["+", "zoom in", () => Math.min(8, factor * 1.5)],
    ["\u2212", "zoom out", () => Math.max(1, factor / 1.5)],
    ["1:1", "reset the zoom", () => 1],
  ]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", text);
    button.addEventListener("click", () => set(next()));
    bar.append(button);
  }
  box.before(bar);
  box.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return; // without it the wheel scrolls
      event.preventDefault();
      set(Math.max(1, Math.min(8, factor * Math.exp(-event.deltaY / 300))));
    },
    { passive: false },
  );
  function set(next) {
    const [x, y] = [box.scrollLeft + box.clientWidth / 2, box.scrollTop + box.clientHeight / 2];
    const grown = next / factor;
    factor = next;
    picture.style.width = `${100 * factor}%`;
    picture.style.maxWidth = `${640 * factor}px`;
    box.scrollTo(x * grown - box.clientWidth / 2, y * grown - box.clientHeight / 2); // what was in the middle stays
  }
}

for (const table of document.querySelectorAll("table"))
  [...table.tHead.rows[0].cells].forEach((head, column) => sorter(table, head, column));
tooltips();
document.querySelectorAll(".zoomable").forEach(zoom);
