"use strict";
(() => {
  const at = (id) => document.getElementById(id);

  // ---- sorting, each group of rows by itself: a cell says its numbers (data-key), else its text is compared

  function value(row, column) {
    const cell = row.cells[column];
    const { key } = cell.dataset;
    if (key === "") return null;
    return key === undefined ? cell.textContent.trim().toLowerCase() : key.split(" ").map(Number);
  }

  // Unknown values stay last in both directions; numbers come before texts.
  function compare(a, b, sign) {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "string" ? 1 : -1;
    if (typeof a === "string") return sign * (a < b ? -1 : a > b ? 1 : 0);
    const place = a.findIndex((one, at) => one !== b[at]);
    return place < 0 || b[place] === undefined ? 0 : sign * (a[place] - b[place]);
  }

  function sort(header) {
    const table = header.closest("table");
    const sign = header.getAttribute("aria-sort") === "descending" ? 1 : -1;
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => row.className !== "group");
      const keyed = rows.map((row) => [value(row, header.cellIndex), row]);
      keyed.sort(([a], [b]) => compare(a, b, sign));
      body.append(...keyed.map(([, row]) => row));
    }
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  }

  for (const button of document.querySelectorAll("thead button")) {
    button.addEventListener("click", () => sort(button.closest("th")));
  }

  // ---- filter: what speaks of one arm is hidden unless its name and its claim fit

  const named = [...document.querySelectorAll("[data-arm]")];
  const words = new Map(named.map((row) => [row.dataset.arm, row.dataset.word]));

  function apply() {
    const part = at("filter").value.toLowerCase();
    const word = at("claim").value;
    const fits = (arm) => arm.toLowerCase().includes(part) && (!word || words.get(arm) === word);
    const left = new Set([...words.keys()].filter(fits));
    for (const row of named) row.hidden = !left.has(row.dataset.arm);
    at("count").textContent = `${left.size} of ${words.size} arms`;
  }

  function paint() {
    const chosen = at("theme").value;
    if (chosen) document.documentElement.dataset.theme = chosen;
    else delete document.documentElement.dataset.theme;
  }

  at("filter").addEventListener("input", apply);
  at("claim").addEventListener("change", apply);
  at("theme").addEventListener("change", paint);
  at("tools").addEventListener("submit", (event) => event.preventDefault());
  at("tools").addEventListener("reset", () => setTimeout(() => { apply(); paint(); }, 0));
  at("tools").hidden = false;
  apply();
})();
