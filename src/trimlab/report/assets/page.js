// Sorting by a click on a header: by the numbers that cells stand for, or by their text; empty cells come last.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  table.querySelectorAll("th button").forEach((button, index) => {
    button.addEventListener("click", () => {
      const header = button.parentElement;
      const down = header.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => {
        const cell = row.cells[index];
        return "number" in cell.dataset ? Number(cell.dataset.number) : null;
      };
      const numbers = header.classList.contains("number");
      const compare = (a, b) => {
        if (!numbers) return a.cells[index].textContent.localeCompare(b.cells[index].textContent) * (down ? -1 : 1);
        const [x, y] = [key(a), key(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return (x - y) * (down ? -1 : 1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
// A filter shows the rows that hold all of its words.
for (const input of document.querySelectorAll(".filter input")) {
  const rows = document.getElementById(input.getAttribute("aria-controls")).tBodies[0].rows;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
}
const data = document.getElementById("chart-data");
if (data) {
  vegaEmbed("#chart", JSON.parse(data.textContent), { actions: false, renderer: "svg" });
}
