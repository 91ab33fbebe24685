// Tables of class "sorts": a click on a column's head sorts by it, a second one the other way.
for (const table of document.querySelectorAll("table.sorts")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => {
    const text = row.cells[i].textContent.trim();
    const number = parseFloat(text.replace(/,/g, "").replace("\u2212", "-"));
    return isNaN(number) ? text.toLowerCase() : number;
  };
  heads.forEach((head, i) => {
    if (head.hasAttribute("aria-hidden")) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, i), row]);
      rows.sort(([a], [b]) => {
        const order = typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? 1 : -1;
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}
