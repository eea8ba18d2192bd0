// Rows that move together: each of ours, with the published ones that stand under it.
const grouped = (body) => {
  const groups = [];
  for (const row of body.rows) {
    if (row.className === "published" && groups.length) groups.at(-1).push(row);
    else groups.push([row]);
  }
  return groups;
};
for (const table of document.querySelectorAll("table.long")) {
  const [body, headers] = [table.tBodies[0], [...table.tHead.rows[0].cells]];
  const groups = grouped(body);
  // Sorting by a click on a header: numbers from the largest down, text from A on. A second click turns the order
  // around, a third one restores the report's own. Cells without a number come last.
  headers.forEach((header, index) => {
    const numbers = header.className === "number";
    const turns = numbers ? ["descending", "ascending"] : ["ascending", "descending"];
    const cell = ([row]) => row.cells[index];
    const last = (group) => numbers && !("number" in cell(group).dataset);
    const rising = numbers
      ? (a, b) => cell(a).dataset.number - cell(b).dataset.number
      : (a, b) => cell(a).textContent.localeCompare(cell(b).textContent, "en", { numeric: true });
    header.firstElementChild.addEventListener("click", () => {
      const turn = turns[turns.indexOf(header.getAttribute("aria-sort")) + 1];
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      if (turn) header.setAttribute("aria-sort", turn);
      const way = turn === "descending" ? -1 : 1;
      const sorted = turn ? groups.toSorted((a, b) => last(a) - last(b) || way * rising(a, b) || 0) : groups;
      body.append(...sorted.flat());
    });
  });
  // One header is on the way of the tabulator key; the arrow keys lead to the others.
  const buttons = headers.map((header) => header.firstElementChild);
  const reach = (button) => buttons.forEach((other) => (other.tabIndex = other === button ? 0 : -1));
  reach(buttons[0]);
  buttons.forEach((button, index) => {
    button.addEventListener("focus", () => reach(button));
    button.addEventListener("keydown", ({ key }) => buttons[index + (key === "ArrowRight") - (key === "ArrowLeft")]?.focus());
  });
  // A filter shows the rows with all of its words, each at the start of a word in one of their cells.
  const input = document.querySelector(`input[aria-controls="${table.id}"]`);
  const status = input.closest(".filter").querySelector("[role=status]");
  const plain = (text) => text.toLowerCase().replace(/(\d)\s+%/g, "$1%");
  const texts = new Map(groups.map((group) => [group, group.flatMap((row) => [...row.cells]).map((one) => plain(one.textContent))]));
  input.addEventListener("input", () => {
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    const wanted = words.map((word) => new RegExp(`(?<![\\p{L}\\d.,])${word.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&")}`, "u"));
    let shown = 0;
    for (const [group, cells] of texts) {
      const kept = wanted.every((word) => cells.some((text) => word.test(text)));
      shown += kept;
      group.forEach((row) => (row.hidden = !kept));
    }
    if (!words.length) status.textContent = "";
    else status.textContent = shown ? `${shown} of ${groups.length} shown` : "No row matches: each word has to start a word in the row.";
  });
}
// A table that does not fit can be scrolled with the keyboard.
for (const box of document.querySelectorAll(".scroll")) {
  new ResizeObserver(() => {
    const fits = box.scrollWidth <= box.clientWidth && box.scrollHeight <= box.clientHeight;
    if (fits) box.removeAttribute("tabindex");
    else box.tabIndex = 0;
  }).observe(box);
}
// The bar names the section that is being read, and its list of sections closes after a choice.
const menu = document.querySelector("nav details");
const links = new Map([...menu.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
const reading = new IntersectionObserver(
  (seen) => {
    for (const { target } of seen.filter((entry) => entry.isIntersecting)) {
      links.forEach((link) => link.removeAttribute("aria-current"));
      links.get(target.id).setAttribute("aria-current", "true");
      document.getElementById("here").textContent = links.get(target.id).textContent;
    }
  },
  { rootMargin: "-20% 0px -79% 0px" },
);
links.forEach((_, id) => reading.observe(document.getElementById(id)));
menu.addEventListener("click", ({ target }) => target.closest("a") && (menu.open = false));
document.addEventListener("click", ({ target }) => menu.contains(target) || (menu.open = false));
menu.addEventListener("keydown", ({ key }) => key === "Escape" && (menu.open = false));
const data = document.getElementById("chart-data");
if (data) vegaEmbed("#chart", JSON.parse(data.textContent), { actions: false, renderer: "svg" });
