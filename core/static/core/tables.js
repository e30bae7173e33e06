// Prepares tables for narrow screens, where a style sheet shows each row as a card: the cells get their column's name,
// and explicit roles, because some browsers drop the semantics of a table with display: block.
"use strict";

function annotateTables(root, selector = "table") {
  for (const table of root.querySelectorAll(selector)) {
    const labels = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
    table.setAttribute("role", "table");
    for (const section of [table.tHead, ...table.tBodies]) section.setAttribute("role", "rowgroup");
    for (const row of table.rows) {
      row.setAttribute("role", "row");
      for (const cell of row.cells) {
        cell.setAttribute("role", { col: "columnheader", row: "rowheader" }[cell.scope] ?? "cell");
        if (cell.colSpan === 1) cell.dataset.label = labels[cell.cellIndex];
      }
    }
  }
}
