"use strict";
function sortBy(table, column, ascending) {
  const value = (row) => row.cells[column].dataset.v;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // what is missing comes last in both directions
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : Number(x) - Number(y);
    return ascending ? order : -order;
  });
  table.tBodies[0].append(...rows);
}

document.querySelectorAll(".board").forEach((table) => {
  table.querySelectorAll("thead button").forEach((button) => {
    const head = button.closest("th");
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") === "descending" || head.cellIndex < 2 && !head.hasAttribute("aria-sort");
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, head.cellIndex, ascending);
    });
  });
});
