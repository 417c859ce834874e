"use strict";
const list = document.querySelector("#transitions");
const items = list ? Array.from(list.querySelectorAll(".t")) : [];
const filters = Array.from(document.querySelectorAll(".filters select[data-key]"));
const order = document.querySelector("#order");

for (const filter of filters) {
  const values = new Set(items.map((item) => item.dataset[filter.dataset.key]));
  const numeric = filter.dataset.key === "step";
  for (const value of Array.from(values).sort(numeric ? (a, b) => b - a : undefined)) {
    filter.add(new Option(value.replaceAll("_", " "), value));
  }
  filter.addEventListener("change", apply);
}

function apply() {
  let shown = 0;
  for (const item of items) {
    item.hidden = filters.some((filter) => filter.value && item.dataset[filter.dataset.key] !== filter.value);
    shown += item.hidden ? 0 : 1;
  }
  document.querySelector("#shown").textContent = shown;
}

if (order) {
  order.addEventListener("change", () => {
    const [key, sign] = order.value ? order.value.split(":") : ["index", 1];
    items.sort((a, b) => sign * (Number(a.dataset[key]) - Number(b.dataset[key])));
    list.append(...items);
  });
}
