"use strict";
(() => {
  const data = JSON.parse(document.getElementById("content").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 640, HEIGHT = 420, LEFT = 58, RIGHT = 18, TOP = 14, BOTTOM = 46;

  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const html = (name, attributes, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const number = (value) =>
    value === null || value === undefined ? "–" :
    Number.isInteger(value) ? String(value) : Math.abs(value) >= 100 ? value.toFixed(1) : value.toFixed(3);

  const valueOf = (point, key) => key in point.scores ? point.scores[key] : point[key];

  // Round steps of 1, 2 or 5 times a power of ten, about five of them.
  const ticks = (low, high) => {
    const raw = (high - low || 1) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) found.push(at);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  };
  const range = (values) => {
    const low = Math.min(...values), high = Math.max(...values), pad = (high - low || Math.abs(high) || 1) * 0.07;
    return [low - pad, high + pad];
  };
  const frame = (chart, [x0, x1], [y0, y1], xLabel, yLabel, width = WIDTH) => {
    chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const x = (v) => LEFT + (v - x0) / (x1 - x0) * (width - LEFT - RIGHT);
    const y = (v) => HEIGHT - BOTTOM - (v - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    const across = ticks(x0, x1), up = ticks(y0, y1);
    for (const v of across.found)
      chart.append(svg("line", { class: "axis", x1: x(v), x2: x(v), y1: TOP, y2: HEIGHT - BOTTOM }),
        svg("text", { x: x(v), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, v.toFixed(across.digits)));
    for (const v of up.found)
      chart.append(svg("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(v), y2: y(v) }),
        svg("text", { x: LEFT - 7, y: y(v) + 4, "text-anchor": "end" }, v.toFixed(up.digits)));
    chart.append(svg("text", { x: (LEFT + width - RIGHT) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, xLabel),
      svg("text", { transform: `translate(14 ${(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
    return { x, y };
  };

  // -- the layer that is looked at --------------------------------------------------------------------
  const panel = document.getElementById("layer");
  const select = (point) => {
    document.querySelectorAll(".mark.chosen").forEach((m) => m.classList.remove("chosen"));
    document.querySelectorAll(`.mark[data-candidate="${point.candidate}"]`).forEach((m) => m.classList.add("chosen"));
    panel.replaceChildren(
      html("h3", {}, point.name, " ", html("span", { class: `arm ${point.arm}` }, point.arm)));
    const pictures = data.pictures[point.formula];
    for (const part of pictures ? pictures.parts : []) {
      if (part.slot) panel.append(html("p", { class: "soft" }, part.slot));
      const math = html("div", { class: "math" }), drawing = html("div", { class: "drawing" });
      math.innerHTML = part.math;
      drawing.innerHTML = part.svg;
      panel.append(math, drawing);
      // a little too wide is made smaller, much too wide is scrolled
      const picture = drawing.querySelector("svg"), size = picture ? picture.getBoundingClientRect().width : 0;
      if (size > drawing.clientWidth && size < 1.5 * drawing.clientWidth) {
        picture.style.width = "100%";
        picture.style.height = "auto";
      }
    }
    panel.append(html("pre", { id: "formula" }, point.formula));
    const rows = [...data.proxies.map((p) => [p, point.scores[p]]), ["mean", point.mean]];
    if (point.latency !== null) rows.push(["latency, us", point.latency]);
    rows.push(["operations", point.operations], ["came about by", point.origin]);
    if (point.parent !== null) rows.push(["from", point.parent]);
    const body = html("tbody", {});
    for (const [name, value] of rows)
      body.append(html("tr", {}, html("td", {}, name),
        html("td", { class: "n" }, typeof value === "number" ? number(value) : String(value ?? "–"))));
    panel.append(html("table", {}, body));
    if (point.front) panel.append(html("p", { class: "soft" }, "No other layer of its arm is at least as good in every objective."));
  };

  // A name at the first of some places [x, y, whether it ends there] where it covers no other one.
  const label = (chart, taken, name, places) => {
    const made = svg("text", { class: "name" }, name);
    chart.append(made);
    for (const [x, y, end] of places) {
      made.setAttribute("x", x);
      made.setAttribute("y", y);
      made.setAttribute("text-anchor", end ? "end" : "start");
      const box = made.getBBox();
      const free = taken.every((o) => box.x >= o.x + o.width || o.x >= box.x + box.width || box.y >= o.y + o.height - 2 || o.y >= box.y + box.height - 2);
      if (free && box.x >= 0) { taken.push(box); return; }
    }
    made.remove();  // its mark still has the name as a tooltip
  };

  // -- scatter ----------------------------------------------------------------------------------------
  const chart = document.getElementById("scatter"), across = document.getElementById("across"), up = document.getElementById("up");
  const SHAPES = {
    search: (x, y) => svg("circle", { cx: x, cy: y, r: 5 }),
    control: (x, y) => svg("rect", { x: x - 4.5, y: y - 4.5, width: 9, height: 9 }),
    baseline: (x, y) => svg("path", { d: `M${x} ${y - 7}l7 7-7 7-7-7z` }),
  };
  const draw = () => {
    const a = data.axes[across.value], b = data.axes[up.value];
    const points = data.points.filter((p) => valueOf(p, a.key) != null && valueOf(p, b.key) != null);
    chart.replaceChildren();
    if (!points.length) {
      chart.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing has been scored yet"));
      return;
    }
    const { x, y } = frame(chart, range(points.map((p) => valueOf(p, a.key))), range(points.map((p) => valueOf(p, b.key))),
      a.label + (a.more === false ? " (less is better)" : ""), b.label + (b.more === false ? " (less is better)" : ""));
    const place = (p) => [x(valueOf(p, a.key)), y(valueOf(p, b.key))];
    if (a.more !== null && b.more !== null) {
      // the front in these two objectives, of the search alone: from the best across to the best up
      const sign = (axis) => axis.more ? 1 : -1;
      const sorted = points.filter((p) => p.arm === "search").sort((p, q) => sign(a) * (valueOf(q, a.key) - valueOf(p, a.key)) || sign(b) * (valueOf(q, b.key) - valueOf(p, b.key)));
      let best = -Infinity;
      const front = sorted.filter((p) => sign(b) * valueOf(p, b.key) > best && ((best = sign(b) * valueOf(p, b.key)), true));
      if (front.length > 1) chart.append(svg("polyline", { class: "front", points: front.map((p) => place(p).join(" ")).join(" ") }));
    }
    const named = [];
    for (const point of [...points].sort((p, q) => p.front - q.front)) {
      const mark = (SHAPES[point.arm] || SHAPES.search)(...place(point));
      mark.setAttribute("class", `mark ${point.arm}${point.front || point.arm === "baseline" ? "" : " hollow"}`);
      mark.dataset.candidate = point.candidate;
      mark.setAttribute("tabindex", "0");
      mark.setAttribute("role", "button");
      mark.setAttribute("aria-label", `${point.name}: ${point.formula}`);
      mark.append(svg("title", {}, `${point.name}\n${point.formula}\n${a.label} ${number(valueOf(point, a.key))}, ${b.label} ${number(valueOf(point, b.key))}`));
      mark.addEventListener("click", () => select(point));
      mark.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); select(point); }
      });
      chart.append(mark);
      if (point.arm === "baseline") {
        const [px, py] = place(point), end = px > WIDTH - 140;
        label(chart, named, point.name, [end, !end].flatMap((left) => [4, -8, 16, -20, 28].map((dy) => [px + (left ? -10 : 10), py + dy, left])));
      }
    }
  };
  data.axes.forEach((axis, i) => { for (const menu of [across, up]) menu.append(html("option", { value: i }, axis.label)); });
  const first = data.axes.findIndex((axis) => axis.key === "latency");
  across.value = first >= 0 ? first : 0;
  up.value = first >= 0 ? data.axes.findIndex((axis) => axis.key === "mean") : data.proxies.length > 1 ? 1 : data.axes.findIndex((axis) => axis.key === "candidate");
  across.addEventListener("change", draw);
  up.addEventListener("change", draw);
  draw();

  // -- best score over time ---------------------------------------------------------------------------
  const progress = document.getElementById("progress"), clock = document.getElementById("clock");
  const drawProgress = () => {
    progress.replaceChildren();
    // the chart is as wide as the page, and no taller for it
    const width = progress.clientWidth > 800 ? 1.7 * WIDTH : WIDTH;
    const at = clock.value === "minutes" ? 1 : 0;
    const arms = Object.entries(data.best).filter(([arm]) => arm !== "baseline");
    const levels = data.points.filter((p) => p.arm === "baseline").map((p) => [p.name, p.mean]);
    const values = [...arms.flatMap(([, steps]) => steps.map((s) => s[2])), ...levels.map(([, mean]) => mean)];
    if (!values.length) {
      progress.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing has been scored yet"));
      return;
    }
    const end = Math.max(1e-9, ...arms.flatMap(([, steps]) => steps.map((s) => s[at])));
    const { x, y } = frame(progress, [0, end * 1.02], range(values), at ? "minutes" : "evaluated candidates of the arm", "best mean score so far", width);
    const named = [];
    for (const [name, mean] of levels) {
      const line = svg("line", { class: "level", x1: LEFT, x2: width - RIGHT, y1: y(mean), y2: y(mean) });
      line.append(svg("title", {}, `${name}: ${number(mean)}`));
      progress.append(line);
      label(progress, named, name, [0, 1, 2, 3].map((column) => [LEFT + 5 + column * 150, y(mean) - 3, false]));
    }
    for (const [arm, steps] of arms) {
      const path = steps.map((s, i) => `${i ? `H${x(s[at])}V` : `M${x(s[at])} `}${y(s[2])}`).join("");
      progress.append(svg("path", { class: `step ${arm}`, d: path }));
      for (const s of steps) {
        const point = data.points.find((p) => p.candidate === s[3]);
        const dot = svg("circle", { class: `mark ${arm}`, cx: x(s[at]), cy: y(s[2]), r: 3.5, "data-candidate": s[3] });
        dot.append(svg("title", {}, `${arm}/${s[3]}: ${number(s[2])} after ${s[0]} candidates, ${number(s[1])} minutes`));
        if (point) dot.addEventListener("click", () => select(point));
        progress.append(dot);
      }
    }
  };
  clock.addEventListener("change", drawProgress);
  window.addEventListener("resize", drawProgress);
  drawProgress();

  const best = data.points.find((p) => data.ranking.some((r) => r.chosen && r.arm === "search" && r.candidate === p.candidate))
    || data.points.find((p) => p.arm === "search") || data.points[0];
  if (best) select(best);
})();
