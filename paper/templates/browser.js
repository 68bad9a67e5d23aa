
"use strict";
// Words of an answer that the chosen one does not have there, by the longest common row of words.
const words = (text) => text.match(/\s+|[^\s]+/g) || [];
const mark = (said, chosen) => {
  if (said.children.length || said.dataset.marked) return;
  said.dataset.marked = "1";
  const own = words(said.textContent), others = words(chosen.textContent).filter((w) => w.trim());
  if (own.length * others.length > 250000) return;
  const length = Array.from({ length: own.length + 1 }, () => new Uint16Array(others.length + 1));
  for (let i = own.length - 1; i >= 0; i--) {
    for (let j = others.length - 1; j >= 0; j--) {
      length[i][j] = own[i] === others[j] ? length[i + 1][j + 1] + 1
        : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const parts = [];
  for (let i = 0, j = 0; i < own.length; i++) {
    if (!own[i].trim()) { parts.push(own[i]); continue; }
    while (j < others.length && own[i] !== others[j] && length[i][j + 1] === length[i][j]) j++;
    if (j < others.length && own[i] === others[j]) { parts.push(own[i]); j++; continue; }
    const differs = document.createElement("mark");
    differs.textContent = own[i];
    parts.push(differs);
  }
  said.replaceChildren(...parts);
};
for (const form of document.querySelectorAll("form.browser")) {
  const prompts = [...form.nextElementSibling.querySelectorAll("article")];
  const shown = Number(form.dataset.shown);
  const { arm, text, back, on } = form.elements;
  const filters = [...form.querySelectorAll("[data-filter]")];
  let first = 0;
  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    const found = prompts.filter((one) =>
      filters.every((filter) => !filter.value || one.dataset[filter.name] === filter.value) &&
      (!wanted || one.textContent.toLowerCase().includes(wanted)));
    first = Math.max(0, Math.min(first, Math.floor((found.length - 1) / shown) * shown));
    const page = new Set(found.slice(first, first + shown));
    for (const one of prompts) {
      one.hidden = !page.has(one);
      if (one.hidden) continue;
      const chosen = one.querySelector(".answers .generated");
      for (const said of one.querySelectorAll("[data-arm]")) {
        said.hidden = Boolean(arm.value) && said.dataset.arm !== arm.value;
        for (const told of said.querySelectorAll(".generated")) mark(told, chosen);
      }
    }
    back.disabled = first === 0;
    on.disabled = first + shown >= found.length;
    form.querySelector("output").textContent = found.length
      ? `${first + 1} to ${Math.min(first + shown, found.length)} of ${found.length} prompts`
      : "no such prompt";
  };
  form.addEventListener("input", () => { first = 0; show(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  back.addEventListener("click", () => { first -= shown; show(); });
  on.addEventListener("click", () => { first += shown; show(); });
  form.hidden = false;
  show();
}
