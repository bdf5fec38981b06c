"use strict";
const told = JSON.parse(document.getElementById("told").textContent);
const dialog = document.querySelector("dialog");
const buttons = [...document.querySelectorAll(".figure")];
let shown = -1;

function element(name, content, attributes = {}) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  for (const item of [content].flat()) if (item != null) made.append(item);
  return made;
}

function picture(of) {
  const views = of.views.map((name, i) =>
    element("figure", [
      element("img", null, { src: told.images[name], alt: `${told.kinds[i]} image ${of.id}` }),
      element("figcaption", [told.kinds[i], of.says[i] ? element("br") : null, of.says[i]]),
    ]));
  return element("section", [element("h3", of.about), element("div", views, { class: "views" })],
    { class: `picture ${of.correct ? "right" : "wrong"} ${of.small ? "small" : ""}` });
}

function show(i, move = true) {
  shown = i;
  const figure = told.figures[i];
  const list = (typed) => element("dl", figure.facts.filter(([, , code]) => code === typed).flatMap(
    ([name, value]) => [element("dt", name), element("dd", typed ? element("code", value) : value)]));
  dialog.querySelector("h2").textContent = figure.name;
  dialog.querySelector(".inside").replaceChildren(
    list(false), ...figure.pictures.map(picture), element("p", figure.shows, { class: "dim" }), list(true));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  if (move) history.replaceState(null, "", `#f${i}`);
}

function beside(step) {
  show((shown + step + buttons.length) % buttons.length);
}

document.querySelector(".figures").addEventListener("click", (event) => {
  const button = event.target.closest(".figure");
  if (button) show(buttons.indexOf(button));
});

document.querySelector(".figures").addEventListener("keydown", (event) => {
  const cell = event.target.closest("td");
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
  if (!cell || !steps) return;
  const rows = [...cell.closest("tbody").rows];
  const row = rows[rows.indexOf(cell.parentElement) + steps[0]];
  const next = row && row.cells[cell.cellIndex + steps[1]];
  const button = next && next.querySelector(".figure");
  if (button) { event.preventDefault(); button.focus(); }
});

dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
  const step = event.target.closest("[data-step]");
  if (step) beside(Number(step.dataset.step));
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") beside(-1);
  if (event.key === "ArrowRight") beside(1);
});
dialog.addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  if (buttons[shown]) buttons[shown].focus();
});

document.querySelectorAll("input[name=shade]").forEach((input) =>
  input.addEventListener("change", () => {
    document.querySelector(".figures").className = `figures shade-${input.value}`;
  }));

const asked = /^#f(\d+)$/.exec(location.hash);
if (asked && told.figures[Number(asked[1])]) show(Number(asked[1]), false);
