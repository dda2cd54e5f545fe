"use strict";
// Tables: a click on a column's button sorts by it, another click turns the order round. Gaps stay at the end.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const number = (said) => (/^[-+]?[\d.,\s]+(e[-+]?\d+)?\s*%?$/i.test(said) ? parseFloat(said.replace(/[,\s]/g, "")) : NaN);
  const compare = (one, other) => {
    const a = number(one), b = number(other);
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    return one.localeCompare(other);
  };
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const each of heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const cell = (row) => row.cells[column].textContent.trim();
    const rows = [...body.rows].sort((one, other) => {
      const a = cell(one), b = cell(other);
      if (!a || !b) return Number(!a) - Number(!b);
      return down ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
  }));
}
