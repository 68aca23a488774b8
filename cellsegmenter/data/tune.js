"use strict";
const { cuts, automatic, command } = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const slider = at("slider");

function chart(svg, key, digits) {
  // The cuts are evenly spaced, as they are on the slider right above.
  const [left, right, top, bottom] = [8, 352, 14, 74];
  const values = cuts.map((cut) => cut[key] ?? 0);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const x = (i) => left + (i / Math.max(cuts.length - 1, 1)) * (right - left);
  const y = (v) => bottom - ((v - low) / (high - low || 1)) * (bottom - top);
  const add = (name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [attribute, value] of Object.entries(attributes)) node.setAttribute(attribute, value);
    if (text !== undefined) node.textContent = text;
    return svg.appendChild(node);
  };
  add("line", { class: "frame", x1: left, x2: right, y1: bottom, y2: bottom });
  add("line", { class: "choice", x1: x(automatic), x2: x(automatic), y1: top, y2: bottom });
  add("polyline", { class: "series", points: values.map((v, i) => `${x(i)},${y(v)}`).join(" ") });
  add("text", { x: left, y: 10 }, `highest ${high.toFixed(digits)}`);
  add("text", { x: left, y: 88 }, `lowest ${low.toFixed(digits)}`);
  const cursor = add("line", { class: "cursor", y1: top, y2: bottom });
  const dot = add("circle", { class: "dot", r: 4 });
  return (i) => {
    cursor.setAttribute("x1", x(i));
    cursor.setAttribute("x2", x(i));
    dot.setAttribute("cx", x(i));
    dot.setAttribute("cy", y(values[i]));
  };
}

const charts = [chart(at("objects-chart"), "objects", 0), chart(at("agreement-chart"), "agreement", 2)];

function show(index) {
  const cut = cuts[index];
  slider.value = index;
  slider.setAttribute("aria-valuetext", `gamma_abs ${cut.gamma_abs}, ${cut.objects} objects`);
  at("overlay").src = cut.overlay;
  at("overlay").alt = `Outlines of ${cut.objects} objects`;
  at("gamma").textContent = cut.gamma_abs;
  at("objects").textContent = cut.objects;
  at("diameter").textContent = cut.diameter === null ? "–" : `${cut.diameter} px`;
  at("agreement").textContent = cut.agreement.toFixed(3);
  at("confidence").textContent = cut.confidence === null ? "–" : cut.confidence.toFixed(2);
  at("is-automatic").hidden = index !== automatic;
  at("command").textContent = command.replace("GAMMA_ABS", cut.gamma_abs);
  at("copied").textContent = "";
  charts.forEach((move) => move(index));
}

const step = (by) => show(Math.min(cuts.length - 1, Math.max(0, Number(slider.value) + by)));
const outlines = at("outlines");
const showOutlines = () => { at("overlay").style.visibility = outlines.checked ? "visible" : "hidden"; };

slider.addEventListener("input", () => show(Number(slider.value)));
outlines.addEventListener("change", showOutlines);
at("automatic").addEventListener("click", () => show(automatic));
at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("command").textContent);
    at("copied").textContent = "Copied.";
  } catch {  // pages opened from a file may not write to the clipboard in every browser
    getSelection().selectAllChildren(at("command"));
    at("copied").textContent = "Marked: copy it with Ctrl+C.";
  }
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const own = event.target === slider;  // the slider moves by the arrow keys itself
  if (event.key === "ArrowRight" && !own) step(1);
  else if (event.key === "ArrowLeft" && !own) step(-1);
  else if (event.key === "a") show(automatic);
  else if (event.key === "o") { outlines.checked = !outlines.checked; showOutlines(); }
  else return;
  event.preventDefault();
});
show(automatic);
