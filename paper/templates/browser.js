
"use strict";
for (const form of document.querySelectorAll("form.browser")) {
  const prompts = [...form.nextElementSibling.querySelectorAll("article")];
  const shown = Number(form.dataset.shown);
  const { group, arm, text, back, on } = form.elements;
  let first = 0;
  const show = () => {
    const wanted = text.value.trim().toLowerCase();
    const found = prompts.filter((one) =>
      (!group.value || one.dataset.group === group.value) &&
      (!wanted || one.textContent.toLowerCase().includes(wanted)));
    first = Math.max(0, Math.min(first, Math.floor((found.length - 1) / shown) * shown));
    const page = new Set(found.slice(first, first + shown));
    for (const one of prompts) {
      one.hidden = !page.has(one);
      for (const said of one.querySelectorAll("[data-arm]")) {
        said.hidden = Boolean(arm.value) && said.dataset.arm !== arm.value;
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
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open])")];
  for (const one of opened) one.open = true;
});
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
