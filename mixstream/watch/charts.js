"use strict";
// Numbers of a run -> SVG. Names and reasons enter as text, never as markup.

const SIZE = { width: 900, height: 190, left: 62, right: 200, top: 22, bottom: 26 };
const INK = "#222222", MUTED = "#595959", GRID = "#e4e4e4";
const LABEL_GAP = 15; // pixels between labels beside a chart
const WORD_WIDTH = 60; // pixels that "planned" takes

// Charts are painted in the pixels there are, so that text has its size; wider ones grow.
function fitWidth(pixels) {
  SIZE.width = Math.min(Math.max(pixels, 430), 900);
}

function element(name, attributes = {}, text = null) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

// The empty chart: axes, grid, and the functions from numbers to places.
function axes(svg, picture, low, high, text) {
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${SIZE.width} ${SIZE.height}`);
  const right = SIZE.width - SIZE.right, bottom = SIZE.height - SIZE.bottom;
  const span = picture.end - picture.first || 1, range = high - low || 1;
  const x = (step) => SIZE.left + ((step - picture.first) / span) * (right - SIZE.left);
  const y = (value) => bottom - ((value - low) / range) * (bottom - SIZE.top);
  const rules = element("g", { stroke: GRID });
  const numbers = element("g");
  for (const value of ticks(low, high, 4)) {
    rules.append(element("line", { x1: SIZE.left, x2: right, y1: y(value), y2: y(value) }));
    const place = { x: SIZE.left - 6, y: y(value) + 4, "text-anchor": "end" };
    numbers.append(element("text", place, text(value)));
  }
  for (const step of ticks(picture.first, picture.end, Math.ceil(SIZE.width / 120))) {
    if (step !== Math.round(step)) continue;
    rules.append(element("line", { x1: x(step), x2: x(step), y1: SIZE.top, y2: bottom }));
    const place = { x: x(step), y: bottom + 16, "text-anchor": "middle" };
    numbers.append(element("text", place, step.toLocaleString("en")));
  }
  numbers.append(element("text", { x: right + 42, y: bottom + 18 }, "step"));
  svg.append(rules, numbers);
  return { x, y, right, bottom };
}

// Round numbers in a range, about as many as asked for.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step || 0);
  return found;
}

// Shares on top of each other; stepwise: shares[g][i] holds from steps[i] to steps[i + 1].
function stack(svg, picture, steps, shares, stepwise) {
  const place = axes(svg, picture, 0, 1, (share) => `${Math.round(share * 100)} %`);
  const below = new Array(shares.length ? shares[0].length : 0).fill(0);
  const ends = [];
  shares.forEach((share, g) => {
    const low = below.slice();
    share.forEach((value, i) => { below[i] += value; });
    const points = outline(place, steps, below, stepwise)
      .concat(outline(place, steps, low, stepwise).reverse());
    svg.append(element("polygon", {
      points: points.join(" "), fill: picture.groups[g].area, stroke: "#ffffff",
      "stroke-width": share.length > 100 && stepwise ? 0 : 0.5, class: "band",
    }));
    const last = share.length - 1;
    if (last >= 0 && share[last] > 0) {
      const text = `${picture.groups[g].label} ${percent(share[last])}`;
      ends.push({ y: place.y(below[last] - share[last] / 2), text, colour: picture.groups[g].area });
    }
  });
  labels(svg, place, ends);
  return place;
}

function outline(place, steps, heights, stepwise) {
  const points = [];
  heights.forEach((height, i) => {
    points.push(`${place.x(steps[i]).toFixed(1)},${place.y(height).toFixed(1)}`);
    if (stepwise) points.push(`${place.x(steps[i + 1]).toFixed(1)},${place.y(height).toFixed(1)}`);
  });
  return points;
}

// A line a group, and the range of the domains that are not named.
function lineChart(svg, picture, chart) {
  const all = chart.values.concat([chart.others.low, chart.others.high]).flat();
  const finite = all.filter((value) => value !== null);
  let low = finite.length ? Math.min(...finite) : 0, high = finite.length ? Math.max(...finite) : 1;
  const air = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
  [low, high] = [low === 0 ? 0 : low - air, high + air];
  const place = axes(svg, picture, low, high, (value) => String(Number(value.toPrecision(6))));
  const ends = [];
  const some = chart.steps.map((_, i) => i).filter((i) => chart.others.low[i] !== null);
  if (some.length) {
    const edge = (values) => some.map((i) => `${place.x(chart.steps[i])},${place.y(values[i])}`);
    const points = edge(chart.others.high).concat(edge(chart.others.low).reverse()).join(" ");
    svg.append(element("polygon", { points, fill: "#d3d3d3", stroke: chart.others.line, "stroke-width": 0.5 }));
    const i = some[some.length - 1], middle = (chart.others.low[i] + chart.others.high[i]) / 2;
    const label = picture.groups[picture.groups.length - 1].label;
    ends.push({ y: place.y(middle), text: `${label} (range)`, colour: chart.others.line });
  }
  chart.values.forEach((values, g) => {
    const there = values.map((_, i) => i).filter((i) => values[i] !== null);
    if (!there.length) return;
    const group = picture.groups[g];
    const points = there.map((i) => `${place.x(chart.steps[i]).toFixed(1)},${place.y(values[i]).toFixed(1)}`);
    svg.append(element("polyline", {
      points: points.join(" "), fill: "none", stroke: group.line, "stroke-width": 1.8,
      "stroke-dasharray": group.dash.map((n) => n * 1.8).join(" "), class: "line",
    }));
    const last = values[there[there.length - 1]];
    ends.push({ y: place.y(last), text: `${group.label} ${last.toPrecision(3)}`, colour: group.line });
  });
  labels(svg, place, ends);
}

// Texts at the right, in the order of their places and never on top of each other.
function labels(svg, place, ends) {
  const sorted = ends.slice().sort((a, b) => a.y - b.y);
  const blocks = [];
  sorted.forEach((end, i) => {
    let block = { sum: end.y - i * LABEL_GAP, size: 1 };
    while (blocks.length && blocks[blocks.length - 1].sum / blocks[blocks.length - 1].size > block.sum / block.size) {
      const before = blocks.pop();
      block = { sum: block.sum + before.sum, size: block.size + before.size };
    }
    blocks.push(block);
  });
  const top = SIZE.top, most = place.bottom - 4 - (sorted.length - 1) * LABEL_GAP;
  blocks.flatMap(({ sum, size }) => new Array(size).fill(sum / size)).forEach((level, i) => {
    const y = Math.min(Math.max(level, top), Math.max(most, top)) + i * LABEL_GAP;
    const mark = { x: place.right + 8, y: y - 5, width: 10, height: 10, fill: sorted[i].colour };
    svg.append(element("rect", mark));
    svg.append(element("text", { x: place.right + 23, y: y + 4, class: "label" }, sorted[i].text));
  });
}

// Numbers at the changes of the weights; what is planned is pale.
function changes(svg, picture, place) {
  if (picture.end > picture.now) {
    const x = place.x(Math.max(picture.now, picture.first));
    svg.append(element("rect", {
      x, y: SIZE.top, width: place.right - x, height: place.bottom - SIZE.top, fill: "#ffffff", opacity: 0.5,
    }));
    svg.append(element("line", { x1: x, x2: x, y1: SIZE.top, y2: place.bottom, stroke: INK, "stroke-width": 1.5 }));
    const isNarrow = place.right - x < WORD_WIDTH; // the word ends with the panel then
    const word = { x: isNarrow ? place.right - 3 : x + 5, y: place.bottom - 6, class: "label" };
    svg.append(element("text", { ...word, "text-anchor": isNarrow ? "end" : "start" }, "planned"));
  }
  picture.marks.forEach(({ step, note }, i) => {
    const x = place.x(Math.max(step, picture.first));
    const line = { x1: x, x2: x, y1: SIZE.top - 5, y2: place.bottom };
    svg.append(element("line", { ...line, stroke: "#ffffff", "stroke-width": 2 }));
    svg.append(element("line", { ...line, stroke: INK, "stroke-width": 1, "stroke-dasharray": "4 3" }));
    const badge = element("circle", { cx: x, cy: SIZE.top - 11, r: 8, fill: INK, class: "mark" });
    badge.append(element("title", {}, note));
    svg.append(badge, element("text", { x, y: SIZE.top - 7, class: "number" }, String(i + 1)));
  });
}

function percent(share) {
  return `${(share * 100).toFixed(share >= 0.0995 ? 0 : 1)} %`;
}
