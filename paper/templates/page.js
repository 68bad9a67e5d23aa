
// Tables: a button in each head sorts the rows of every group.
const UNITS = { s: 1, min: 60, h: 3600, MiB: 1, GiB: 1024 };
const value = (row, place) => {
  const text = row.cells[place] ? row.cells[place].innerText.trim() : "";
  const sized = /^(?:\d+\.?\d* (?:s|min|h|MiB|GiB)\b ?)+/.exec(text);
  if (sized) {
    const parts = [...sized[0].matchAll(/([\d.]+) (\w+)/g)];
    return parts.reduce((sum, [, size, unit]) => sum + size * UNITS[unit], 0);
  }
  const number = /^[[(+−-]?\d[\d,]*\.?\d*(e[−-]?\d+)?/.exec(text);
  return number ? Number(number[0].replace(/[[(+,]/g, "").replace(/−/g, "-")) : text;
};
const before = (a, b) => typeof a === typeof b
  ? (typeof a === "number" ? a - b : a.localeCompare(b)) : (typeof a === "number" ? -1 : 1);
for (const table of document.querySelectorAll("main table")) {
  if (![...table.tBodies].some((body) => body.querySelectorAll("td").length > 0
    && [...body.rows].filter((row) => row.cells.length > 1).length > 2)) continue;
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      for (const body of table.tBodies) {
        const rows = [...body.rows].filter((row) => row.cells.length > 1);
        rows.sort((a, b) => (down ? -1 : 1) * before(value(a, place), value(b, place)));
        body.append(...rows);
      }
    });
  });
}
// Figures: the nearest point tells its value, by mouse or by arrow keys.
for (const card of document.querySelectorAll("[data-tips]")) {
  const svg = card.querySelector("svg"), tips = JSON.parse(card.dataset.tips);
  const told = document.createElement("output");
  told.className = "tip";
  told.setAttribute("aria-live", "polite");
  told.hidden = true;
  card.after(told);
  const spot = document.createElementNS(svg.namespaceURI, "circle");
  spot.setAttribute("class", "spot");
  spot.setAttribute("r", "4");
  spot.setAttribute("visibility", "hidden");
  svg.append(spot);
  let place = -1;
  const tell = (found) => {
    place = found;
    const none = found < 0;
    told.hidden = none;
    spot.setAttribute("visibility", none ? "hidden" : "visible");
    if (none) return;
    const [x, y, text] = tips[found];
    told.textContent = text;
    spot.setAttribute("cx", x);
    spot.setAttribute("cy", y);
    const box = svg.getBoundingClientRect(), around = card.parentElement.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const left = box.left - around.left + x * scale;
    const width = Math.min(told.offsetWidth, around.width);
    told.style.left = `${Math.max(0, Math.min(left - width / 2, around.width - width))}px`;
    told.style.top = `${box.top - around.top + y * scale + 12}px`;
  };
  card.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const away = ([x, y]) => Math.hypot(box.left + x * scale - event.clientX,
      box.top + y * scale - event.clientY);
    let nearest = -1, least = 16;
    tips.forEach((tip, index) => {
      const far = away(tip);
      if (far < least) [nearest, least] = [index, far];
    });
    tell(nearest);
  });
  card.addEventListener("pointerleave", () => tell(-1));
  card.addEventListener("blur", () => tell(-1));
  card.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") tell(-1);
    if (!step || !tips.length) return;
    event.preventDefault();
    tell((Math.max(place, step < 0 ? 0 : -1) + step + tips.length) % tips.length);
  });
  card.setAttribute("aria-label", `${card.getAttribute("aria-label")}; arrow keys tell its values`);
}
// Print shows what a screen folds away.
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
