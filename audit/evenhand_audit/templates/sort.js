"use strict";
// Sorts a table's rows when a heading is clicked, or chosen with Enter. Numbers sort as numbers.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const key = (row, column) => {
    const text = row.cells[column] ? row.cells[column].textContent.trim().replace("\u2212", "-") : "";
    const figure = parseFloat(text);
    return Number.isNaN(figure) ? text.toLowerCase() : figure;
  };
  const order = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  Array.from(table.tHead.rows[0].cells).forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const rising = cell.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = Array.from(body.rows).sort((a, b) => order(key(a, column), key(b, column)));
      body.append(...(rising ? rows : rows.reverse()));
    });
  });
}
