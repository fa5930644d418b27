// Makes the heads of one table buttons that sort its rows; without scripts it stays a plain table.
// The pattern is that of the ARIA Authoring Practices (sortable table). Numbers are sorted by value,
// the largest first; empty cells come last. `helpers.viewers.tables` writes this file into the page.
function _sortable(table) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];

  function value(row, column) {
    const text = row.cells[column].textContent.trim();
    const number = Number.parseFloat(text);
    return Number.isNaN(number) ? text : number;
  }

  function compared(a, b) {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return b - a;
    return String(a).localeCompare(String(b));
  }

  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const again = head.getAttribute("aria-sort") === "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", again ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [value(one, column), value(two, column)];
        const order = compared(a, b);
        return again && a !== "" && b !== "" ? -order : order;
      });
      body.append(...rows);
    });
  });
}
