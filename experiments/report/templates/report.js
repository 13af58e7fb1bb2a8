"use strict";
// Charts are drawn already; this only chooses among them, hides series and answers the pointer.
for (const panel of document.querySelectorAll(".panel")) {
  const stage = panel.querySelector(".stage");
  const tip = panel.querySelector(".tip");
  const hidden = new Set();

  const redraw = () => {
    const x = panel.querySelector("select.x").value;
    const y = panel.querySelector("select.y").value;
    for (const choice of stage.querySelectorAll(".choice")) {
      choice.hidden = choice.dataset.x !== x || choice.dataset.y !== y;
    }
    for (const series of stage.querySelectorAll(".series")) {
      series.classList.toggle("off", hidden.has(series.dataset.name));
    }
    tip.hidden = true;
  };
  for (const select of panel.querySelectorAll("select")) select.addEventListener("change", redraw);
  for (const button of panel.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const name = button.dataset.name;
      if (!hidden.delete(name)) hidden.add(name);
      button.setAttribute("aria-pressed", String(!hidden.has(name)));
      redraw();
    });
  }

  const leave = () => {
    tip.hidden = true;
    for (const cross of stage.querySelectorAll(".cross")) cross.classList.add("off");
  };
  const point = (event) => {
    const svg = stage.querySelector(".choice:not([hidden]) svg");
    if (!svg) return;
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const lines = [];
    let place = null;
    for (const series of svg.querySelectorAll(".series:not(.off)")) {
      const points = JSON.parse(series.dataset.points);
      const near = points.reduce((a, b) => (Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      if (!place || Math.abs(near[0] - at) < Math.abs(place[0] - at)) place = near;
      lines.push(`${series.dataset.name}: ${near[3]} at ${near[2]}`);
    }
    if (!place) return leave();
    const cross = svg.querySelector(".cross");
    cross.setAttribute("x1", place[0]);
    cross.setAttribute("x2", place[0]);
    cross.classList.remove("off");
    tip.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
    tip.hidden = false;
    const left = (place[0] / svg.viewBox.baseVal.width) * box.width + 10;
    tip.style.left = `${Math.max(0, Math.min(left, box.width - tip.offsetWidth - 4))}px`;
  };
  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerdown", point);
  stage.addEventListener("pointerleave", leave);
}
document.documentElement.dataset.ready = "yes";
