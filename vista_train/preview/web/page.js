"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const index = JSON.parse(byId("index").textContent);
  const chosen = { kind: new Set(), manifest: new Set(), state: new Set() };
  const search = byId("search");
  const chips = document.querySelectorAll(".chip");

  const matches = (entry) => {
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const has = (key, values) => !chosen[key].size || values.some((value) => chosen[key].has(value));
    return has("kind", [entry.kind]) && has("manifest", entry.manifest) && has("state", [entry.state])
      && wanted.every((word) => entry.words.includes(word));
  };

  const apply = () => {
    let left = 0;
    for (const entry of index) {
      const is_left = matches(entry);
      byId("position-" + entry.position).hidden = !is_left;
      left += is_left;
    }
    const samples = index.length === 1 ? " sample" : " samples";
    byId("told").textContent = left === index.length ? left + samples : left + " of " + index.length + samples;
    byId("none").hidden = left > 0;
  };

  const clear = () => {
    Object.values(chosen).forEach((values) => values.clear());
    chips.forEach((chip) => chip.setAttribute("aria-pressed", "false"));
    search.value = "";
    apply();
  };

  chips.forEach((chip) => chip.addEventListener("click", () => {
    const values = chosen[chip.dataset.key];
    const is_on = !values.delete(chip.dataset.value);
    if (is_on) values.add(chip.dataset.value);
    chip.setAttribute("aria-pressed", String(is_on));
    apply();
  }));
  search.addEventListener("input", apply);
  byId("clear").addEventListener("click", clear);
  byId("clear-none").addEventListener("click", () => { clear(); search.focus(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("show-boxes").addEventListener("change", (event) => {
    document.body.classList.toggle("bare", !event.target.checked);
  });

  // A link to a sample that is filtered away brings it back.
  const arrive = () => {
    const card = location.hash.startsWith("#position-") && byId(location.hash.slice(1));
    if (card && card.hidden) {
      clear();
      card.scrollIntoView();
    }
  };
  addEventListener("hashchange", arrive);

  const marked = (code) => {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
  };
  document.querySelectorAll(".copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.previousElementSibling;
      let told = "Copied";
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        // Not allowed here, or there is none: it is marked, for Ctrl-C.
        marked(code);
        told = "Marked";
      }
      button.textContent = told;
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  });
  byId("filters").hidden = false;
  // What a reload leaves in the fields counts.
  byId("show-boxes").dispatchEvent(new Event("change"));
  apply();
})();
