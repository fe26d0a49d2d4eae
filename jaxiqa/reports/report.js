"use strict";
const collator = new Intl.Collator("en", { numeric: true });

// A cell's number, its text where it has none, or null where its number is missing.
const key = cell => !("value" in cell.dataset) ? cell.textContent : cell.dataset.value === "" ? null : +cell.dataset.value;

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(a, b);
}

for (const table of document.querySelectorAll(".scroll table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...body.rows].map(row => [key(row.cells[i]), row]);
      rows.sort(([a], [b]) => a === null || b === null ? (a === null) - (b === null) : sign * compare(a, b)); // missing ones stay last
      body.append(...rows.map(([, row]) => row));
    });
  });
}

for (const figure of document.querySelectorAll(".compare")) {
  const part = name => figure.querySelector(name);
  const stage = part(".stage"), frame = part(".frame"), versions = [...figure.querySelectorAll(".attacked")];
  const set = (name, value) => figure.style.setProperty(name, value);
  const choose = () => {
    const chosen = versions[part(".which").value];
    versions.forEach(version => version.classList.toggle("shown", version === chosen));
    set("--factor", chosen.dataset.factor);
    const scaled = part(".difference").checked ? `; shown: the difference × ${chosen.dataset.factor}` : "";
    part("figcaption").textContent = chosen.textContent + scaled;
  };
  const cut = () => {
    set("--cut", `${part(".cut").value}%`);
    part(".cut").setAttribute("aria-valuetext", `${part(".cut").value} % clean`);
  };
  const zoom = () => { // around the centre of what is seen
    const x = (stage.scrollLeft + stage.clientWidth / 2) / stage.scrollWidth;
    const y = (stage.scrollTop + stage.clientHeight / 2) / stage.scrollHeight;
    set("--zoom", part(".zoom").value);
    stage.scrollLeft = x * stage.scrollWidth - stage.clientWidth / 2;
    stage.scrollTop = y * stage.scrollHeight - stage.clientHeight / 2;
  };
  const difference = () => {
    figure.classList.toggle("difference", part(".difference").checked);
    choose();
  };
  const room = () => set("--room", `${figure.clientWidth}px`);
  figure.classList.add("live");
  part(".controls").hidden = false;
  part(".which").addEventListener("change", choose);
  part(".cut").addEventListener("input", cut);
  part(".zoom").addEventListener("input", zoom);
  part(".difference").addEventListener("change", difference);
  addEventListener("resize", room);
  [room, choose, cut, zoom].forEach(start => start());
}

addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(one => { one.open = true; }));
