// The page's life: asks for the numbers, paints them, and sends what a person wants.

const TOKEN = location.pathname.split("/")[1];
const LEAST_PAUSE = 1000; // milliseconds between two looks
const SHARE_OF_TIME = 0.1; // of one core, at most, that looking may cost where the run is
const $ = (id) => document.getElementById(id);

let known = ""; // the version that is painted
let shown = null; // the picture that is painted
let weights = {}; // by name, as the run has them now
let shownWeights = ""; // what the sliders were last set to by the run
let isTouched = false; // a person has moved a slider since
let latest = 0; // the number of the last request of this page

async function asked(path, options = {}) {
  const response = await fetch(`/${TOKEN}/${path}`, { cache: "no-store", ...options });
  const said = await response.text();
  let value;
  try { value = JSON.parse(said); } catch { throw new Error(said.trim()); }
  if (!response.ok) throw new Error(value.message);
  return value;
}

async function look() {
  let seconds = 0;
  try {
    const picture = await asked(`picture?view=${$("view").value}&known=${encodeURIComponent(known)}`);
    seconds = picture.seconds;
    if (picture.domains) paint(picture);
    known = picture.version;
    $("state").classList.remove("fault");
    $("state").textContent = stateText();
  } catch (error) {
    $("state").classList.add("fault");
    $("state").textContent = error instanceof TypeError
      ? "mixstream watch does not answer any more; start it again, and open its new address."
      : error.message;
  }
  setTimeout(look, Math.max(LEAST_PAUSE, (seconds * 1000) / SHARE_OF_TIME));
}

function paint(picture) {
  shown = picture;
  fitWidth($("charts").clientWidth);
  document.title = `${picture.name} · mixstream watch`;
  $("name").textContent = picture.name;
  $("name").title = picture.path;
  const place = stack($("asked").querySelector("svg"), picture, picture.asked.steps, picture.asked.shares, true);
  changes($("asked").querySelector("svg"), picture, place);
  notes(picture);
  const span = Math.round(picture.drawn.window).toLocaleString("en");
  caption($("drawn"), "drawn shares", `in a window of ${span} steps`);
  stack($("drawn").querySelector("svg"), picture, picture.drawn.steps, picture.drawn.shares, false);
  picture.lines.forEach((chart, i) => {
    const figure = $("lines").children[i] || $("lines").appendChild(emptyFigure());
    caption(figure, chart.name, chart.unit || "no unit given");
    lineChart(figure.querySelector("svg"), picture, chart);
  });
  while ($("lines").children.length > picture.lines.length) $("lines").lastChild.remove();
  controls(picture);
}

function stateText() {
  if (!shown) return "";
  const step = `step ${shown.now.toLocaleString("en")}`;
  if (shown.ended) return `${step} · the run has ended: ${shown.ended}`;
  const age = Date.now() / 1000 - shown.last_event;
  const ago = age < 90 ? `${Math.max(age, 0).toFixed(0)} s` : age < 5400 ? `${(age / 60).toFixed(0)} min` : `${(age / 3600).toFixed(0)} h`;
  return `${step} · last event ${ago} ago`;
}

function notes(picture) {
  const lines = picture.marks.map(({ note }) => item(note));
  if (picture.num_other_marks) lines.push(item(`and ${picture.num_other_marks.toLocaleString("en")} more`, "rest"));
  if (!lines.length) lines.push(item("no change of the weights yet", "rest"));
  $("marks").replaceChildren(...lines);
}

function item(text, kind = "") {
  const made = document.createElement("li");
  made.textContent = text;
  made.className = kind;
  return made;
}

function emptyFigure() {
  const figure = document.createElement("figure");
  figure.append(document.createElement("figcaption"), element("svg"));
  return figure;
}

function caption(figure, text, more) {
  const unit = document.createElement("span");
  unit.textContent = `, ${more}`;
  figure.querySelector("figcaption").replaceChildren(text, unit);
}

// The sliders follow the run until a person takes one.
function controls(picture) {
  $("closed").hidden = picture.steerable;
  $("controls").disabled = !picture.steerable;
  weights = Object.fromEntries(picture.domains.map(({ name, weight }) => [name, weight]));
  const names = (found) => JSON.stringify(found.map(({ name }) => name));
  if (names(rows()) !== names(picture.domains)) {
    $("domains").replaceChildren(...picture.domains.map((domain) => control(domain, picture)));
    shownWeights = ""; // the corpus has other domains than it had: what was typed is gone
    isTouched = false;
  }
  picture.domains.forEach((domain, i) => {
    $("domains").children[i].cells[1].textContent = percent(domain.weight);
  });
  const now = JSON.stringify(weights);
  if (now !== shownWeights && !isTouched) followRun();
  shownWeights = now;
}

function control(domain, picture) {
  const row = document.createElement("tr");
  row.dataset.domain = domain.name;
  for (let i = 0; i < 5; i++) row.insertCell();
  const [name, now, sliding, typing, share] = row.cells;
  name.className = "domain";
  name.title = domain.label;
  const mark = document.createElement("i");
  const group = picture.groups.find(({ label }) => label === domain.label);
  mark.style.background = group ? group.area : "#d3d3d3";
  name.append(mark, domain.label);
  now.className = share.className = "share";
  const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: 1, step: 0.001 });
  const number = Object.assign(document.createElement("input"), { type: "text", inputMode: "decimal" });
  slider.setAttribute("aria-label", `weight of ${domain.label}, slider`);
  number.setAttribute("aria-label", `weight of ${domain.label}`);
  slider.addEventListener("input", () => { number.value = slider.value; touched(); });
  number.addEventListener("input", () => { slider.value = Number(number.value) || 0; touched(); });
  sliding.append(slider);
  typing.append(number);
  return row;
}

function rows() {
  return [...$("domains").children].map((row) => {
    const [slider, number] = row.querySelectorAll("input");
    return { name: row.dataset.domain, slider, number, share: row.cells[4] };
  });
}

function touched() {
  isTouched = true;
  shares();
}

function followRun() {
  isTouched = false;
  for (const { name, slider, number } of rows()) {
    number.value = String(Number(weights[name].toPrecision(4)));
    slider.value = weights[name];
  }
  shares();
}

// What each weight will be as a share of all.
function shares() {
  const values = rows().map(({ number }) => typed(number.value));
  const total = values.reduce((sum, value) => sum + Number(value), 0);
  const isPoint = values.every((value) => Number.isFinite(value) && value >= 0) && total > 0;
  rows().forEach(({ share }, i) => { share.textContent = isPoint ? percent(values[i] / total) : "–"; });
}

// A number where the text is one; else the text, for the run's own checks to refuse.
function typed(text) {
  return text.trim() !== "" && Number.isFinite(Number(text)) ? Number(text) : text;
}

async function apply(event) {
  event.preventDefault();
  const body = {
    weights: Object.fromEntries(rows().map(({ name, number }) => [name, typed(number.value)])),
    reason: $("reason").value,
  };
  const mine = ++latest;
  $("apply").disabled = true;
  try {
    const headers = { "Content-Type": "application/json", "X-Mixstream-Token": TOKEN };
    const { request } = await asked("weights", { method: "POST", headers, body: JSON.stringify(body) });
    $("apply").disabled = false;
    say("asked; the run looks at its next step…");
    await answered(request, mine);
  } catch (error) {
    if (mine === latest) say(`refused, nothing is changed: ${error.message}`, "refused");
  }
  $("apply").disabled = false;
}

// Waits for the answer to a request, until a person makes another one.
async function answered(request, mine) {
  const began = Date.now();
  while (mine === latest) {
    const answer = await asked(`answer?request=${encodeURIComponent(request)}`);
    if (answer && !answer.accepted) throw new Error(answer.message);
    if (answer) {
      const [step, row] = [answer.step.toLocaleString("en"), answer.row.toLocaleString("en")];
      say(`taken: felt from step ${step}, row ${row}`, "taken");
      isTouched = false;
      return;
    }
    const seconds = Math.round((Date.now() - began) / 1000);
    if (seconds >= 5) say(`no answer for ${seconds} s: the run is in a long step, or not running; the request waits.`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function say(text, kind = "") {
  $("answer").textContent = text;
  $("answer").className = kind;
}

$("steer").addEventListener("submit", apply);
$("reset").addEventListener("click", followRun);
$("view").addEventListener("change", () => { known = ""; });
window.addEventListener("resize", () => { if (shown) paint(shown); });
look();
